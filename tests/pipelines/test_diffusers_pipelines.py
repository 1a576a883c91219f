"""Small pipelines of five kinds, saved, quantised and reloaded: used as diffusers' own are."""

import re
from pathlib import Path

import fixtures
import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    EulerDiscreteScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    UNet2DModel,
    VQModel,
)
from mpq_export.pipelines.class_conditional import LabelledPixelPipeline

from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError, RecipeError
from mpq_export.lowering.names import Target
from mpq_export.runtimes.names import Runtime
from mpq_export.sampling import from_pretrained, quantized_model

RUNTIMES = (Runtime.ORT, Runtime.ORT_PORTABLE, Runtime.ONNX, Runtime.TORCH)


def unet(channels, classes=None):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, add_attention=False,
        num_class_embeds=classes,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def unconditional(folder):
    DDPMPipeline(unet(3), DDPMScheduler()).save_pretrained(folder)


def labelled(folder):
    """As diffusers' training scripts save it: under the name of an unconditional pipeline."""
    DDIMPipeline(unet(3, classes=5), DDIMScheduler()).save_pretrained(folder)


def latent(folder):
    vqvae = VQModel(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3, num_vq_embeddings=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    LDMPipeline(vqvae, unet(3), DDIMScheduler()).save_pretrained(folder)


KINDS = {
    "unconditional": (unconditional, DDPMPipeline, {"batch_size": 2}, 8),
    "labelled": (labelled, LabelledPixelPipeline, {"class_labels": [0, 4]}, 8),
    "latent": (latent, LDMPipeline, {"batch_size": 2}, 16),
    "text": (
        tiny_pipelines.save_stable_diffusion, StableDiffusionPipeline,
        {"prompt": ["a fox", "a cat"], "guidance_scale": 3.0}, 16,
    ),
    "dit": (tiny_pipelines.save_dit, DiTPipeline, {"class_labels": [1, 7]}, 16),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """Its name, the full-precision pipeline's folder and the bundle's."""
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param][0](folder / "pipeline")
    targets = (Target.ORT, Target.ONNX)
    made = fixtures.quantized_bundle(folder / "pipeline", folder / "bundle", "rtn", "w8a8", targets)
    return request.param, folder / "pipeline", made


def drawn(pipeline, name, seed=3, **more):
    _, _, subject, size = KINDS[name]
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": 2, "generator": noise, "output_type": "np"} | more
    images = pipeline(**subject, **options).images
    assert images.shape == (2, size, size, 3)
    return images


def test_a_bundle_opens_as_diffusers_own_pipeline_in_every_runtime(kind):
    name, _, bundle = kind
    images = {}
    for runtime in RUNTIMES:
        pipeline = from_pretrained(bundle, runtime.value)
        assert type(pipeline) is KINDS[name][1]
        images[runtime] = drawn(pipeline, name)
    for runtime in RUNTIMES[:-1]:
        assert np.abs(images[runtime] - images[Runtime.TORCH]).mean() < 0.03, runtime
    assert np.abs(drawn(pipeline, name, seed=4) - images[Runtime.TORCH]).mean() > 0.01


def test_a_pipeline_of_the_user_takes_the_quantised_model(kind):
    """Assigned, or handed to ``from_pretrained``: images are those that the bundle draws. Its text
    encoder takes plain attention, so that a text's last bits differ, and with them some codes."""
    name, folder, bundle = kind
    if name == "labelled":
        pytest.skip("diffusers has no pipeline that hands labels to this model")
    place = "transformer" if name == "dit" else "unet"
    assigned = DiffusionPipeline.from_pretrained(folder)
    setattr(assigned, place, quantized_model(bundle))
    images = drawn(assigned, name)
    handed = DiffusionPipeline.from_pretrained(folder, **{place: quantized_model(bundle)})
    np.testing.assert_array_equal(drawn(handed, name), images)
    difference = np.abs(images - drawn(from_pretrained(bundle), name))
    assert difference.mean() < 0.01 if name == "text" else not difference.any()
    original = drawn(DiffusionPipeline.from_pretrained(folder), name)
    assert 0 < np.abs(images - original).mean() < 0.05


def test_schedulers_are_exchanged_as_ever(kind):
    name, _, bundle = kind
    config = read_bundle(bundle).scheduler_config
    euler = EulerDiscreteScheduler.from_config(config)
    if name in ("unconditional", "labelled", "latent", "dit"):
        euler = DDIMScheduler.from_config(config, timestep_spacing="trailing")
    handed = from_pretrained(bundle, scheduler=euler)
    assigned = from_pretrained(bundle)
    assigned.scheduler = euler
    assert handed.scheduler is euler
    images = drawn(handed, name)
    np.testing.assert_array_equal(images, drawn(assigned, name))
    assert np.abs(images - drawn(from_pretrained(bundle), name)).max() > 1e-3


@pytest.mark.parametrize("kind", ["text", "labelled"], indirect=True)
def test_callbacks_are_called_and_may_change_the_sample(kind):
    name, _, bundle = kind
    seen = []

    def callback(_pipeline, step, timestep, tensors):
        seen.append((step, int(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    pipeline = from_pretrained(bundle)
    images = drawn(pipeline, name, callback_on_step_end=callback)
    assert [step for step, _ in seen] == list(range(len(seen)))  # PNDM takes one more
    assert len(seen) >= 2
    assert seen[0][1] > seen[1][1]
    assert np.abs(images - drawn(pipeline, name)).max() > 1e-3


@pytest.mark.parametrize("kind", ["text"], indirect=True)
def test_what_cannot_be_is_said(kind, tmp_path):
    _, _, bundle = kind
    with pytest.raises(RecipeError, match="no component 'refiner'"):
        from_pretrained(bundle, refiner=None)
    with pytest.raises(RecipeError, match=r"no 'torch_dtype'.*vae\.to"):
        from_pretrained(bundle, torch_dtype=torch.float16)
    for name in ("unet", "transformer"):
        with pytest.raises(RecipeError, match="quantised model's place"):
            from_pretrained(bundle, **{name: None})
    with pytest.raises(BundleError, match="not saved by its pipeline"):
        from_pretrained(bundle).save_pretrained(tmp_path / "p")
    with pytest.raises(ValueError, match="abacus"):
        from_pretrained(bundle, "abacus")


def test_labels_with_images_that_are_not_square():
    model = unet(3, classes=5)
    model.register_to_config(sample_size=(8, 16))
    pipeline = LabelledPixelPipeline(model, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline([0, 4], 1, output_type="np").images.shape == (2, 8, 16, 3)


def test_only_the_unet_of_labels_gets_the_pipeline_of_labels():
    from mpq_export.pipelines.general.family import _is_plain_unet

    assert _is_plain_unet({"unet": ["diffusers", "UNet2DModel"]})
    for entry in (["diffusers", "UNet2DConditionModel"], [None, None], "UNet2DModel", None):
        assert not _is_plain_unet({"unet": entry})
    assert not _is_plain_unet({"transformer": ["diffusers", "UNet2DModel"]})


@pytest.mark.parametrize("kind", ["text"], indirect=True)
def test_samples_of_other_types_come_back_as_they_were(kind):
    _, _, bundle = kind
    model = quantized_model(bundle)
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(2, 77, tiny_pipelines.WIDTH)
    whole = model(sample, 5, text).sample
    half = model(sample.bfloat16(), torch.tensor(5), text.bfloat16()).sample
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).norm() < 0.3 * whole.norm()


@pytest.mark.parametrize("kind", ["text"], indirect=True)
def test_the_readmes_lines_swap_the_model(kind):
    _, folder, bundle = kind
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    (block,) = [text for text in blocks if "quantized_model" in text]
    block = block.replace('"stable-diffusion-v1-5/"', "folder").replace('"out/sd"', "bundle")
    names = {"folder": folder, "bundle": bundle}
    exec(block.replace("=20", "=2"), names)
    assert names["images"][0].size == (16, 16)
