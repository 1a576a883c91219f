"""Whole diffusers pipelines: exported, reopened with one call, drawn from; and what is refused."""

import json
import pickle
import re
import shutil
from pathlib import Path

import fixtures
import numpy as np
import pytest
import tiny_pipelines
import torch
from mpq_export.pipelines.general.text_conditions import default_prompts, text_conditions
from mpq_export.pipelines.registry import DrawRequest
from PIL import Image
from safetensors.torch import load_file, save_file

from mpq_export.architectures import architecture_of
from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import BundleError, CheckpointError, RecipeError
from mpq_export.export import export_bundle, export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.files import MANIFEST, write_manifest
from mpq_export.lowering.names import Target
from mpq_export.methods import recipe_of
from mpq_export.pipeline_folder import PIPELINE, verified_index
from mpq_export.precision import BitSpec
from mpq_export.runtimes.names import Runtime
from mpq_export.sampling import draw_images, open_pipeline

FEW = recipe_of("rtn").model_copy(update={"calibration_images": 4})


def export(pipeline, out, targets=()):
    request = ExportRequest(BitSpec(4, 8), FEW, targets, 3, 0, out)
    return export_checkpoint(load_checkpoint(pipeline), request, fixtures.SilentProgress())


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """The full-precision pipeline's folder; do not change it."""
    return tiny_pipelines.save_stable_diffusion(tmp_path_factory.mktemp("sd") / "pipeline")


@pytest.fixture(scope="module")
def bundle(stable_diffusion, tmp_path_factory):
    """Its bundle, not lowered; do not change it."""
    return export(stable_diffusion, tmp_path_factory.mktemp("sd-bundle") / "b")


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle's folder to damage."""
    shutil.copytree(bundle.path, tmp_path / "b")
    return tmp_path / "b"


def test_the_other_components_go_along_and_nothing_else(stable_diffusion, bundle):
    folder = bundle.path / PIPELINE
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"vae/config.json", "text_encoder/model.safetensors", "model_index.json"} <= names
    assert not any(name.startswith(("unet", "scheduler")) for name in names)
    for name in names - {MANIFEST, "model_index.json"}:
        assert (folder / name).read_bytes() == (stable_diffusion / name).read_bytes()
    assert bundle.quantization.family == "general"
    assert verified_index(bundle.path)["_class_name"] == "StableDiffusionPipeline"


def test_one_call_opens_the_result(bundle):
    from diffusers import StableDiffusionPipeline

    pipeline = open_pipeline(bundle, Runtime.TORCH)
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    assert pipeline.safety_checker is None


def test_the_readmes_lines_open_and_draw(bundle):
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "open_pipeline" in b]
    block = block.replace('"out/sd"', "folder").replace("Runtime.ORT", "Runtime.TORCH")
    names = {"read_bundle": read_bundle, "Runtime": Runtime, "folder": bundle.path}
    exec(block.replace("=20", "=2"), names)
    assert names["images"][0].size == (16, 16)


def draw(bundle, *prompts, num_images=2, seed=0, guidance=None, runtime=Runtime.TORCH):
    request = DrawRequest(num_images, 2, seed, prompts, guidance)
    return draw_images(bundle, runtime, request, fixtures.SilentProgress())


def test_prompts_seeds_and_guidance_matter(bundle):
    images = draw(bundle, "a red fox")
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    np.testing.assert_array_equal(images, draw(bundle, "a red fox"))
    for other in (
        draw(bundle, "a blue whale"),
        draw(bundle, "a red fox", seed=1),
        draw(bundle, "a red fox", guidance=1.5),
    ):
        assert np.abs(images - other).max() > 1e-4


def test_prompts_are_used_in_turn(bundle):
    """The third image has the first prompt again, but noise of its own."""
    three = draw(bundle, "x y z", "b c d", num_images=3)
    assert len(three) == 3
    assert np.abs(three[0] - three[2]).max() > 1e-4


def test_a_text_pipeline_wants_a_prompt(bundle):
    with pytest.raises(RecipeError, match="draws from a text"):
        draw(bundle)


def test_calibration_hears_what_the_pipeline_says(bundle):
    """Half of the rows are the unconditional ones, all alike; the others are the prompts'."""
    config, scheduler = bundle.model_config, bundle.scheduler_config
    prompts = ("a cat", "a dog")
    conditions = text_conditions(bundle.path, config, scheduler, prompts, 8)
    tokens = conditions["encoder_hidden_states"]
    assert tokens.shape == (8, 77, tiny_pipelines.WIDTH)
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens[0], tokens[3])
    assert torch.equal(tokens[4], tokens[6])
    assert not torch.equal(tokens[4], tokens[5])
    assert len(default_prompts()) >= 32


@pytest.mark.slow
def test_the_runtimes_agree_on_a_lowered_pipeline(stable_diffusion, tmp_path):
    exported = export(stable_diffusion, tmp_path / "b", (Target.ORT,))
    torch_images = draw(exported, "a cat")
    ort_images = draw(exported, "a cat", runtime=Runtime.ORT)
    assert np.abs(torch_images - ort_images).mean() < 0.02


def test_a_copy_of_the_bundle_keeps_its_pipeline(bundle, tmp_path):
    again = export_bundle(read_bundle(bundle.path), (), tmp_path / "c", fixtures.SilentProgress())
    assert verified_index(again.path) == verified_index(bundle.path)


def test_class_labels_are_drawn_in_turn(tmp_path):
    exported = export(tiny_pipelines.save_dit(tmp_path / "p"), tmp_path / "b")
    assert draw(exported, num_images=3).shape == (3, 3, 16, 16)
    with pytest.raises(RecipeError, match="takes no text"):
        draw(exported, "a cat")


def test_pipelines_of_a_denoiser_alone_need_no_torch(tmp_path, monkeypatch, pipeline_folder):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDIMPipeline(unet, DDIMScheduler(timestep_spacing="trailing")).save_pretrained(tmp_path / "p")
    exported = export(tmp_path / "p", tmp_path / "b", (Target.ORT,))
    ours = draw(exported, runtime=Runtime.ORT)
    monkeypatch.setattr("mpq_export.sampling.is_known", lambda _config: False)
    theirs = draw(exported, runtime=Runtime.ORT)
    monkeypatch.setattr("mpq_export.sampling.find_spec", lambda _name: None)
    without_torch = draw(exported, runtime=Runtime.ORT)
    assert ours.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(ours, without_torch)
    np.testing.assert_allclose(ours, theirs, atol=0.02)


# --- what is refused --------------------------------------------------------------------------


def with_index(folder, **changes):
    path = folder / PIPELINE / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | changes))
    names = [p.relative_to(folder / PIPELINE).as_posix() for p in (folder / PIPELINE).rglob("*")
             if p.is_file() and p.name != MANIFEST]  # fmt: skip
    write_manifest(folder / PIPELINE, names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "MyPipeline"}, "not a pipeline"),
        ({"_class_name": "os"}, "not a pipeline"),
        ({"vae": ["os", "system"]}, r"os\.system is not known"),
        ({"vae": ["transformers", "pipeline"]}, "is not known"),
        ({"vae": ["diffusers.models", "AutoencoderKL"]}, "is not known"),
        ({"vae": ["pipeline", "Evil"]}, "is not known"),
        ({"vae": ["transformers", "CLIPTextModel"]}, "vae"),
        ({"text_encoder": ["diffusers", "AutoencoderKL"]}, "text_encoder"),
    ],
)
def test_indices_that_want_other_code_are_refused(copy, changes, message):
    with_index(copy, **changes)
    with pytest.raises(BundleError, match=message):
        open_pipeline(read_bundle(copy), Runtime.TORCH)


def _changed(folder):
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text() + " ")


def _added(folder):
    (folder / "vae" / "modeling.py").write_text("raise SystemExit")


def _linked(folder):
    (folder / "vae" / "config.json").rename(folder.parent / "config2.json")
    (folder / "vae" / "config.json").symlink_to(folder.parent / "config2.json")


def _lost(folder):
    shutil.rmtree(folder / "vae")


def _gone(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [_changed, _added, _linked, _lost, _gone])
def test_damaged_pipelines_are_refused(copy, damage):
    damage(copy / PIPELINE)
    with pytest.raises(BundleError):
        open_pipeline(read_bundle(copy), Runtime.TORCH)


def _pickled(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(print))


def _missing(folder):
    shutil.rmtree(folder / "text_encoder")


def _outside(folder):
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").symlink_to(secret)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_pickled, "pickled"), (_missing, "is missing"), (_outside, "outside its folder")],
)
def test_checkpoints_whose_components_cannot_go_along(stable_diffusion, tmp_path, damage, message):
    shutil.copytree(stable_diffusion, tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises((CheckpointError, BundleError), match=message):
        export(tmp_path / "p", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_components_of_a_variant_take_the_plain_name(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "p")
    for folder, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = tmp_path / "p" / folder / f"{name}.safetensors"
        plain.rename(plain.with_name(f"{name}.fp16.safetensors"))
    exported = export(tmp_path / "p", tmp_path / "b")
    assert (exported.path / PIPELINE / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert draw(exported, "a cat").shape == (2, 3, 16, 16)


def _without(component, tensor):
    def edit(folder):
        (path,) = (folder / component).glob("*.safetensors")
        tensors = load_file(path)
        tensors.pop(next(name for name in tensors if name.endswith(tensor)))
        save_file(tensors, path, metadata={"format": "pt"})

    return edit


def _asking(component, **change):
    def edit(folder):
        path = folder / component / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return edit


def _shards_outside(folder):
    weights = folder / "text_encoder" / "model.safetensors"
    weights.rename(folder.parent / "model.safetensors")
    names = list(load_file(folder.parent / "model.safetensors"))
    index = {"weight_map": dict.fromkeys(names, "../../model.safetensors")}
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("vae", "decoder.conv_in.weight"), "missing or have another shape"),
        (_without("text_encoder", "final_layer_norm.bias"), "missing or have another"),
        (_asking("text_encoder", attn_implementation="evil/kernel"), "asks for code or kernels"),
        (_asking("text_encoder", auto_map={"AutoModel": "x.Y"}), "asks for code or kernels"),
        (_asking("text_encoder", num_hidden_layers=20_000), "larger model"),
        (_asking("text_encoder", hidden_size=200_000, num_hidden_layers=40), "larger model"),
        (_asking("vae", block_out_channels=[8, 1 << 20]), "larger model"),
        (_shards_outside, "not a file of the component"),
    ],
)
def test_components_that_libraries_would_take(stable_diffusion, tmp_path, damage, message):
    """transformers and diffusers fill what is missing, and follow configs and indices."""
    shutil.copytree(stable_diffusion, tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises(BundleError, match=message):
        export(tmp_path / "p", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_whatever_a_pipeline_raises_is_one_error(copy):
    path = copy / PIPELINE / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 500}))
    with_index(copy)
    with pytest.raises(BundleError, match="StableDiffusionPipeline cannot be run"):
        draw(read_bundle(copy), "a cat " * 300)


def test_prompts_without_use_are_refused(tmp_path, pipeline_folder):
    with pytest.raises(RecipeError, match="no use for prompts"):
        export_checkpoint(
            load_checkpoint(pipeline_folder / "unet"),
            ExportRequest(BitSpec(4, 8), FEW, (), 3, 0, tmp_path / "b", prompts=("a cat",)),
            fixtures.SilentProgress(),
        )


@pytest.mark.slow
def test_the_command_draws_from_a_prompt(stable_diffusion, tmp_path):
    from commands import run

    done = run(
        "mpq-export", "--ckpt", stable_diffusion, "--bits", "w4a8", "--inference-steps", 2,
        "--train-steps", 0,
        "--out", tmp_path / "b", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "general"
    done = run(
        "mpq-sample", tmp_path / "b", "--prompt", "a red fox", "--num-images", 2,
        "--out", tmp_path / "fox.png", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 2
    assert Image.open(tmp_path / "fox.png").size[0] > 32


def test_a_model_fits_what_its_pipeline_hands_over(bundle):
    """A pipeline of another model is found before anything is calibrated."""
    wrong = {**bundle.model_config, "time_cond_proj_dim": 8}
    assert len(architecture_of(wrong).conditions(wrong)) == 2
    with pytest.raises(BundleError, match="does not fit its model"):
        text_conditions(
            bundle.path, {**wrong, "class_embed_type": "timestep"}, bundle.scheduler_config,
            ("a",), 2,
        )  # fmt: skip
