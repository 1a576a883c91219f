"""Which features are cached, and that the table holds what the model would say."""

import fixtures
import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel

from mpq_export.bundle import read_bundle
from mpq_export.core.layers import replace_module
from mpq_export.prediction import predict
from mpq_export.skeleton import cached_features_of
from mpq_export.temporal.cache import cached_block, exact_features
from mpq_export.temporal.cache_plan import plan_cache
from mpq_export.temporal.choices import CacheChoices

STEPS = np.array([999.0, 400.5, 0.0])
XL = {
    "sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1,
    "attention_head_dim": 4, "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 34,
}  # fmt: skip
DIT = {
    "sample_size": 8, "in_channels": 2, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 4, "num_embeds_ada_norm": 6, "norm_num_groups": 2,
}  # fmt: skip


def config_of(model):
    return {**model.config, "_class_name": type(model).__name__}


def plan_of(model, largest=1 << 24):
    return plan_cache(model, config_of(model), len(STEPS), CacheChoices(largest_table=largest))


def test_features_of_every_label_are_those_that_the_model_uses():
    model = fixtures.tiny_unet()
    exact = exact_features(model, plan_of(model), STEPS)
    assert exact.values.shape == (3, 4, sum(exact.plan.widths.values()))
    seen = {}
    for name in exact.plan.widths:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, name=name: seen.update({name: output})
        )
    for index, timestep in enumerate(STEPS):
        with torch.no_grad():
            predict(
                model, config_of(model), torch.randn(2, 2, 8, 8), torch.tensor(timestep),
                {"class_labels": torch.tensor([3, 1])},
            )  # fmt: skip
        found = np.concatenate([value.numpy() for value in seen.values()], axis=1)
        np.testing.assert_allclose(exact.values[index, [3, 1]], found, atol=1e-6)


def test_a_transformer_has_a_row_for_no_label():
    plan = plan_of(DiTTransformer2DModel(**DIT).eval())
    assert plan.rows == 7
    assert plan.computed == {}
    assert list(plan.widths.values()) == [48, 48, 16]
    assert plan.table_bytes == 112 * (3 * 7 + 8)


def test_where_all_labels_would_take_too_much_the_timestep_alone_is_cached():
    model = DiTTransformer2DModel(**DIT).eval()
    plan = plan_of(model, 1000)
    assert plan.labels is None
    assert list(plan.widths) == [
        f"transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_2" for i in range(2)
    ]
    assert plan.computed["proj_out_1"] == "a table of 3 steps and 7 labels would take 3248 bytes"
    nothing = plan_of(model, 1)
    assert nothing.widths == {}
    assert nothing.table_bytes == 0
    assert len(nothing.computed) == 3
    assert cached_block(model, exact_features(model, nothing, STEPS), {}) is None


def test_what_a_request_mixes_in_is_said():
    plan = plan_of(UNet2DConditionModel(**XL).eval())
    assert list(plan.widths) == ["time_embedding.linear_2"]
    assert len(plan.computed) == 8
    assert set(plan.computed.values()) == {
        "it depends on text_embeds, time_ids, beside the timestep"
    }


def test_the_table_is_kept_where_it_is_nearer_than_the_layers(cached_folder, pipeline_folder):
    bundle = read_bundle(cached_folder)
    config = bundle.quantization.temporal
    assert len(config.features) == 8
    assert len(config.removed) == 11
    assert all(table < 0.01 < layers for table, layers in config.errors.values())
    assert not any(name.startswith("class_embedding") for name in bundle.parameters)
    assert bundle.quantization.format_version == 2


def test_layers_that_are_nearer_stay_and_keep_what_they_read(bundle_folder):
    """Full-precision layers are nearer than any table; one feature's are made worse."""
    model = fixtures.tiny_unet()
    exact = exact_features(model, plan_of(model), STEPS)
    assert cached_block(model, exact, {}) is None
    worse = "mid_block.resnets.0.time_emb_proj"
    layers = {worse: read_bundle(bundle_folder).layers[worse]}
    cached = cached_block(model, exact, layers)
    assert cached.config.features == [worse]
    assert cached.config.removed == {worse: [16, 32]}
    assert len(cached.config.computed) == 7
    assert "its layers are nearer" in next(iter(cached.config.computed.values()))
    assert cached.table.codes.shape == (3, 4, 16)


@pytest.mark.parametrize("label", [4, -1])
def test_other_labels_are_refused(cached_folder, label):
    features = cached_features_of(read_bundle(cached_folder))
    with pytest.raises((IndexError, RuntimeError)):
        features.select(
            torch.tensor([0]), torch.zeros(1, 2, 8, 8), {"class_labels": torch.tensor([label])}
        )


def test_a_model_with_the_table_predicts_as_with_exact_features(pipeline_folder):
    """Everything else in full precision: what the table changes is its own rounding."""
    from mpq_export.cached_features import CachedFeatures, FeatureLayer

    model, reference = fixtures.tiny_unet(), fixtures.tiny_unet()
    exact = exact_features(model, plan_of(model), STEPS)
    names = list(exact.plan.widths)
    rows = {name: fixtures.random_layer([1] * exact.plan.widths[name], 32, 2) for name in names}
    cached = cached_block(model, exact, rows)
    assert cached.config.features == names
    features = CachedFeatures(cached.table, cached.config.widths(), cached.config.labels)
    for name in names:
        replace_module(model, name, FeatureLayer(name, features.values))
    sample, labels = torch.randn(2, 2, 8, 8), {"class_labels": torch.tensor([0, 3])}
    with torch.no_grad():
        features.select(torch.tensor([1]), sample, labels)
        found = predict(model, config_of(model), sample, torch.tensor(0.0), labels)
        wanted = predict(reference, config_of(model), sample, torch.tensor(STEPS[1]), labels)
    assert float((found - wanted).norm()) < 5e-3 * float(wanted.norm())
    assert not torch.equal(found, wanted)


def test_a_model_with_cached_features_can_be_trained(pipeline_folder, tmp_path):
    """What the table replaces is not trained, and is not in the bundle afterwards."""
    from mpq_export.checkpoints import load_checkpoint
    from mpq_export.export import export_checkpoint
    from mpq_export.export_request import ExportRequest
    from mpq_export.methods import recipe_of
    from mpq_export.precision import BitSpec

    recipe = recipe_of("mpq-dmv2").trained_for(1).model_copy(update={"cache": CacheChoices()})
    training = recipe.training.model_copy(update={"groups": 2, "images_per_group": 1})
    request = ExportRequest(
        BitSpec.parse("w3a4"), recipe.model_copy(update={"training": training}), (), 3, 0,
        tmp_path / "bundle",
    )  # fmt: skip
    bundle = export_checkpoint(load_checkpoint(pipeline_folder), request, fixtures.SilentProgress())
    assert len(bundle.quantization.temporal.features) == 8
    assert not any("time_emb" in name or "class_emb" in name for name in bundle.parameters)
