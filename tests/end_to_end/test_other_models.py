"""Models and schedulers beside the digits': exported and exact, or refused by name."""

import json
import shutil

import fixtures
import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PixArtTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from lowering.models import without_residuals

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import BundleError, CheckpointError
from mpq_export.evaluation.baselines.inputs import draw_inputs
from mpq_export.evaluation.check import check_bundle
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.lowering.names import Target
from mpq_export.methods import recipe_of
from mpq_export.precision import BitSpec
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import make_session, runnable_graph


def unet(**changes) -> UNet2DModel:
    """A small UNet2DModel without attention and conditions, unless changed."""
    torch.manual_seed(0)
    options = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"), "add_attention": False,
    }  # fmt: skip
    return UNet2DModel(**options | changes)


def export(folder, out, targets=(Target.ORT,)):
    recipe = recipe_of("mpq-dmv2").trained_for(0)
    request = ExportRequest(BitSpec(3, 4), recipe, targets, 3, 0, out)
    return export_checkpoint(load_checkpoint(folder), request, fixtures.SilentProgress())


def text_unet(**changes) -> UNet2DConditionModel:
    """A small UNet2DConditionModel in Stable Diffusion's shape."""
    torch.manual_seed(0)
    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12,
    }  # fmt: skip
    return UNet2DConditionModel(**options | changes)


def dit(**changes) -> DiTTransformer2DModel:
    """A small DiT."""
    torch.manual_seed(0)
    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "patch_size": 2,
        "num_attention_heads": 2, "attention_head_dim": 12, "num_embeds_ada_norm": 10,
    }  # fmt: skip
    return DiTTransformer2DModel(**options | changes)


def pixart(**changes) -> PixArtTransformer2DModel:
    """A small PixArt."""
    torch.manual_seed(0)
    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "patch_size": 2,
        "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24,
        "caption_channels": 16,
    }  # fmt: skip
    return PixArtTransformer2DModel(**options | changes)


MODELS = {
    "unconditional": unet(),
    "not square": unet(sample_size=(8, 16)),
    "scale and shift": unet(resnet_time_scale_shift="scale_shift"),
    "resampling resnets": unet(downsample_type="resnet", upsample_type="resnet"),
    "learned variance": unet(out_channels=2),
    "half precision": unet().half(),
    "odd channels": unet(
        in_channels=3, out_channels=3, block_out_channels=(15, 21), norm_num_groups=3,
        attention_head_dim=3, add_attention=True,
    ),
    "text": text_unet(),
    "text, linear projections": text_unet(use_linear_projection=True, upcast_attention=True),
    "text, SDXL": text_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
        projection_class_embeddings_input_dim=34, transformer_layers_per_block=(1, 2),
    ),
    "text, guidance embedding and labels": text_unet(time_cond_proj_dim=8, num_class_embeds=5),
    "text, projected": text_unet(
        encoder_hid_dim=10, encoder_hid_dim_type="text_proj", addition_embed_type="text",
        addition_embed_type_num_heads=2,
    ),
    "text, simple cross-attention": text_unet(
        down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
        class_embed_type="projection", projection_class_embeddings_input_dim=6,
    ),
    "DiT": dit(),
    "PixArt": pixart(),
    "PixArt, sizes": pixart(use_additional_conditions=True, num_attention_heads=3,
                            cross_attention_dim=36),
}  # fmt: skip
FOURIER = unet(time_embedding_type="fourier", freq_shift=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in MODELS if n not in ("learned variance", "fourier time")]
)
def test_models_are_exported_and_exact(tmp_path, name):
    folder = fixtures.save_pipeline(tmp_path / "p", MODELS[name])
    bundle = export(folder, tmp_path / "b")
    report = check_bundle(
        bundle, Runtime.ORT, load_checkpoint(folder), 3, 1, 0, fixtures.SilentProgress()
    )
    assert report.passed
    assert len(report.nodes) > 15
    assert report.against_original.relative < 1
    fused = runnable_graph(bundle, Runtime.ORT)
    apart = without_residuals(fused)
    if bundle.model_config["_class_name"].startswith("UNet"):
        assert len(apart.model.graph.node) > len(fused.model.graph.node)
    drawn = draw_inputs(bundle.model_config, 3, np.random.default_rng(0))
    feeds = drawn | {"step_index": np.array([1], np.int32)}
    results = [make_session(graph).run(None, feeds)[0] for graph in (fused, apart)]
    np.testing.assert_array_equal(*results, "residuals change bits")


def test_an_input_that_is_not_finite_is_named(tmp_path):
    """Fourier features take the logarithm of the timestep, and DDIM ends at 0."""
    folder = fixtures.save_pipeline(tmp_path / "p", FOURIER)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    config["timestep_spacing"] = "leading"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=r"time_embedding\.linear_1.*NaN or infinity"):
        export(folder, tmp_path / "b", ())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (DDPMScheduler, {}),
        (EulerDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {}),
        (HeunDiscreteScheduler, {}),
        (PNDMScheduler, {"skip_prk_steps": True}),
    ],
)
def test_schedulers_that_calibrate(tmp_path, scheduler, options):
    folder = fixtures.save_pipeline(tmp_path / "p", MODELS["unconditional"])
    shutil.rmtree(folder / "scheduler")
    scheduler(**options).save_pretrained(folder / "scheduler")
    bundles = [export(folder, tmp_path / name, ()) for name in ("one", "two")]
    weights = [(b.path / "weights.safetensors").read_bytes() for b in bundles]
    assert weights[0] == weights[1], "the seed decides everything, stochastic steps too"
    assert len(read_bundle(tmp_path / "one").timesteps) == 3


def test_schedulers_without_whole_timesteps_are_refused(tmp_path):
    folder = fixtures.save_pipeline(tmp_path / "p", MODELS["unconditional"])
    shutil.rmtree(folder / "scheduler")
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(CheckpointError, match="does not visit whole timesteps"):
        export_checkpoint(
            load_checkpoint(folder),
            ExportRequest(BitSpec(3, 4), recipe_of("rtn"), (), 20, 0, tmp_path / "b"),
            fixtures.SilentProgress(),
        )


def test_flow_matching_is_refused(tmp_path):
    folder = fixtures.save_pipeline(tmp_path / "p", MODELS["unconditional"])
    shutil.rmtree(folder / "scheduler")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(CheckpointError, match="not a diffusers scheduler"):
        export(folder, tmp_path / "b", ())


def test_a_checkpoint_of_another_model_is_refused(tmp_path, lowered_folder):
    other = load_checkpoint(fixtures.save_pipeline(tmp_path / "p", MODELS["unconditional"]))
    with pytest.raises(CheckpointError, match="another architecture"):
        check_bundle(
            read_bundle(lowered_folder), Runtime.ORT, other, 1, 1, 0, fixtures.SilentProgress()
        )


@pytest.mark.parametrize("place", ["onnx", "onnx/onnx"])
def test_lowering_does_not_follow_links_out_of_the_bundle(tmp_path, lowered_folder, place):
    bundle, outside = tmp_path / "b", tmp_path / "outside"
    shutil.copytree(lowered_folder, bundle)
    shutil.rmtree(bundle / place)
    outside.mkdir()
    (bundle / place).symlink_to(outside)
    from mpq_export.export import export_bundle

    with pytest.raises(BundleError, match="is a link"):
        export_bundle(read_bundle(bundle), (Target.ONNX,), None, fixtures.SilentProgress())
    assert list(outside.iterdir()) == []
