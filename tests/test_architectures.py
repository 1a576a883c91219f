"""What is known of each model class: its shapes, its conditions, its 8-bit layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures import NUM_CLASSES

from mpq_export.architectures import ARCHITECTURES, architecture_of, model_arguments, modern_config
from mpq_export.conditions import ClassLabels, Embedding, Typical
from mpq_export.errors import CheckpointError

UNET = {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 2}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_is_found_by_its_class(name: str) -> None:
    import diffusers

    assert architecture_of({"_class_name": name}) is ARCHITECTURES[name]
    assert ARCHITECTURES[name].class_name == name
    assert issubclass(getattr(diffusers, name), diffusers.ModelMixin)


@pytest.mark.parametrize("config", [{}, {"_class_name": None}, {"_class_name": ["UNet2DModel"]}])
def test_other_classes_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="are not supported") as caught:
        architecture_of(config)
    assert "UNet2DModel" in caught.value.why


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (2, 8, 8)), ([8, 12], (2, 8, 12)), ((4, 6), (2, 4, 6))]
)
def test_the_sample_shape_comes_from_the_config(size: Any, shape: tuple[int, ...]) -> None:
    assert architecture_of(UNET).sample_shape({**UNET, "sample_size": size}) == shape


@pytest.mark.parametrize(
    "config", [{**UNET, "sample_size": None}, {"_class_name": "UNet2DModel", "in_channels": 2}]
)
def test_a_model_without_a_size_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no sample_size"):
        architecture_of(config).sample_shape(config)


@pytest.mark.parametrize(
    ("change", "conditions"),
    [
        ({}, ()),
        ({"num_class_embeds": None, "class_embed_type": None}, ()),
        ({"num_class_embeds": 10}, (ClassLabels("class_labels", 10),)),
    ],
)
def test_conditions_come_from_the_config(change: dict[str, Any], conditions: tuple) -> None:
    assert architecture_of(UNET).conditions({**UNET, **change}) == conditions


UNETS = ("UNet2DModel", "UNet2DConditionModel")
TEXT = {"_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4}
TOKENS = Embedding("encoder_hidden_states", (77, 16), free_length=True)


@pytest.mark.parametrize("kind", ["image", 3])
@pytest.mark.parametrize("name", UNETS)
def test_other_class_embeddings_are_refused(name: str, kind: Any) -> None:
    config = {**UNET, "_class_name": name, "class_embed_type": kind, "num_class_embeds": 10}
    with pytest.raises(CheckpointError, match=f"class_embed_type '{kind}' is not supported"):
        architecture_of(config).conditions(config)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, ()),
        ({"num_class_embeds": 7}, (ClassLabels("class_labels", 7),)),
        ({"class_embed_type": "timestep"}, (ClassLabels("class_labels", 1000),)),
        (
            {"class_embed_type": "identity", "block_out_channels": [8, 16]},
            (Embedding("class_labels", (32,)),),
        ),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 5},
            (Embedding("class_labels", (5,)),),
        ),
        ({"time_cond_proj_dim": 9}, (Embedding("timestep_cond", (9,)),)),
        ({"addition_embed_type": "text"}, ()),
        (
            {
                "addition_embed_type": "text_time",
                "projection_class_embeddings_input_dim": 6 * 4 + 10,
                "addition_time_embed_dim": 4,
            },
            (
                Embedding("text_embeds", (10,), "added_cond_kwargs"),
                Typical("time_ids", (64, 64, 0, 0, 64, 64), "added_cond_kwargs"),
            ),
        ),
    ],
)
def test_text_unets_take_tokens_and_what_the_config_adds(change: dict, more: tuple) -> None:
    config = {**TEXT, "cross_attention_dim": 16, **change}
    assert architecture_of(config).conditions(config) == (TOKENS, *more)


@pytest.mark.parametrize(
    ("change", "width"),
    [
        ({}, 1280),
        ({"cross_attention_dim": [16, 16]}, 16),
        ({"encoder_hid_dim": 24, "cross_attention_dim": 16}, 24),
        ({"encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj"}, 24),
    ],
)
def test_the_width_of_tokens(change: dict[str, Any], width: int) -> None:
    config = {**TEXT, **change}
    assert architecture_of(config).conditions(config)[0].shape == (77, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention_dim": [16, 32]}, "cross_attention_dim"),
        ({"cross_attention_dim": 10**9}, "not usable"),
        ({"encoder_hid_dim_type": "ip_image_proj", "encoder_hid_dim": 4}, "encoder_hid_dim_type"),
        ({"addition_embed_type": "image_hint"}, "addition_embed_type 'image_hint'"),
        (
            {
                "addition_embed_type": "text_time",
                "projection_class_embeddings_input_dim": 24,
                "addition_time_embed_dim": 4,
            },
            "no room",
        ),
        ({"time_embedding_type": "learned"}, "time_embedding_type"),
    ],
)
def test_what_text_unets_cannot_do_is_refused(change: dict[str, Any], message: str) -> None:
    config = {**TEXT, **change}
    with pytest.raises(CheckpointError, match=message):
        architecture_of(config).conditions(config)


@pytest.mark.parametrize("channels", [0, -1, 2.5, True, "4", 10**6])
def test_absurd_channels_are_refused(channels: Any) -> None:
    config = {**TEXT, "in_channels": channels}
    with pytest.raises(CheckpointError, match="in_channels"):
        architecture_of(config).sample_shape(config)


def test_transformers_and_their_conditions() -> None:
    dit = {"_class_name": "DiTTransformer2DModel", "sample_size": 32, "num_embeds_ada_norm": 10}
    assert architecture_of(dit).conditions(dit) == (ClassLabels("class_labels", 10, null=10),)
    pixart = {"_class_name": "PixArtTransformer2DModel", "sample_size": 64, "caption_channels": 32}
    tokens, mask = architecture_of(pixart).conditions(pixart)
    assert (tokens.shape, mask.shape) == ((120, 32), (120,))
    large = {**pixart, "sample_size": 128}
    assert [c.name for c in architecture_of(large).conditions(large)[2:]] == [
        "resolution", "aspect_ratio"
    ]  # fmt: skip
    assert (
        len(architecture_of(large).conditions({**large, "use_additional_conditions": False})) == 2
    )


def test_legacy_transformers_are_known_by_their_norm() -> None:
    legacy = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero", "x": 1}
    assert modern_config(legacy) == {**legacy, "_class_name": "DiTTransformer2DModel"}
    legacy["norm_type"] = "ada_norm_single"
    assert modern_config(legacy)["_class_name"] == "PixArtTransformer2DModel"
    assert modern_config(UNET) == UNET
    with pytest.raises(CheckpointError, match="norm_type 'layer_norm'"):
        modern_config({**legacy, "norm_type": "layer_norm"})


def test_arguments_go_where_diffusers_wants_them() -> None:
    config = {
        **TEXT, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 34,
    }  # fmt: skip
    given = {"encoder_hidden_states": 1, "text_embeds": 2, "time_ids": 3}
    assert model_arguments(config, "x", "t", given) == {
        "sample": "x",
        "timestep": "t",
        "encoder_hidden_states": 1,
        "added_cond_kwargs": {"text_embeds": 2, "time_ids": 3},
    }
    for wrong in ({}, {**given, "class_labels": 4}):
        with pytest.raises(TypeError, match="the model takes"):
            model_arguments(config, "x", "t", wrong)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("conv_in", "first convolution"),
        ("conv_out", "last convolution"),
        ("time_embedding.linear_1", "timestep embedding"),
        ("time_embedding.linear_2", "timestep embedding"),
        ("time_embedding", None),
        ("down_blocks.0.resnets.0.time_emb_proj", None),
        ("down_blocks.0.resnets.0.conv_shortcut", None),
        ("down_blocks.0.conv_in", None),
        ("conv_in2", None),
        ("", None),
    ],
)
def test_eight_bit_layers_of_the_unet(layer: str, reason: str | None) -> None:
    assert architecture_of(UNET).eight_bit_reason(layer) == reason


def test_every_eight_bit_pattern_meets_a_layer_of_a_real_model(pipeline_folder: Path) -> None:
    from diffusers import UNet2DModel

    model = UNet2DModel.from_pretrained(pipeline_folder / "unet")
    architecture = architecture_of(model.config)
    found = {architecture.eight_bit_reason(name) for name, _ in model.named_modules()} - {None}
    assert found == {"first convolution", "last convolution", "timestep embedding"}


def test_a_saved_config_says_everything(pipeline_folder: Path) -> None:
    config = json.loads((pipeline_folder / "unet" / "config.json").read_text())
    architecture = architecture_of(config)
    assert architecture.sample_shape(config) == (2, 8, 8)
    assert architecture.conditions(config) == (ClassLabels("class_labels", NUM_CLASSES),)


def test_boards_without_torch_can_read_configs_and_bundles() -> None:
    code = (
        "import sys, mpq_export.architectures, mpq_export.bundle, mpq_export.schedulers; "
        "sys.exit(len({'torch', 'diffusers', 'onnxruntime'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_without_a_last_norm_has_its_features_before_the_last_convolution(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.feature_module(UNET) == "conv_norm_out"
    assert architecture.feature_module({**UNET, "norm_num_groups": None}) == "conv_out"
