"""Pixel models with labels, UNet and transformer: one pipeline, drawn with and without torch."""

import fixtures
import numpy as np
import pytest
import torch
from mpq_export.pipelines.checkpoint_folder import save_checkpoint
from mpq_export.pipelines.class_conditional import classes_in_turn, draw
from mpq_export.pipelines.denoising import cosine_scheduler
from mpq_export.pipelines.digits.pipeline import DigitsPipeline
from mpq_export.pipelines.digits_dit.pipeline import DigitsDiTPipeline
from mpq_export.pipelines.judge import Classifier, ClassifierJudge
from mpq_export.pipelines.photos.pipeline import PhotosPipeline
from mpq_export.pipelines.registry import DrawRequest, load_family, load_judge

from mpq_export import sampling
from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import BundleError, CheckpointError, RecipeError
from mpq_export.lowering.names import Target
from mpq_export.runtimes.names import Runtime
from mpq_export.sampling import SamplingLoop, draw_images

REQUEST = DrawRequest(12, 3, 5)


def tiny_transformer():
    """One block, 10 k weights."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(fixtures.SEED)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, in_channels=1, out_channels=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip


def tiny_unet(channels):
    return fixtures.tiny_unet(channels=channels, classes=10)


MAKERS = {
    "digits": lambda: DigitsPipeline(tiny_unet(1), cosine_scheduler("epsilon")),
    "digits_dit": lambda: DigitsDiTPipeline(tiny_transformer(), cosine_scheduler("v_prediction")),
    "photos": lambda: PhotosPipeline(tiny_unet(3), cosine_scheduler("v_prediction")),
}


@pytest.fixture(scope="module", params=MAKERS)
def written(request, tmp_path_factory):
    """A family's name, and the folder of a tiny checkpoint of it, in half precision."""
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    save_checkpoint(MAKERS[request.param](), folder, torch.float16)
    return request.param, folder


def test_a_checkpoint_is_read_back_with_its_family(written):
    name, folder = written
    checkpoint = load_checkpoint(folder)
    assert checkpoint.family == name
    made = MAKERS[name]().denoiser.state_dict()
    for key, value in checkpoint.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, made[key].half().float()), key


def test_images_are_drawn_for_labels_in_turn(written):
    name, folder = written
    checkpoint, family = load_checkpoint(folder), load_family(name)
    pipeline = family.build_pipeline(checkpoint.model, checkpoint.scheduler_config, folder)
    done = []
    images = family.draw(pipeline, REQUEST, done.append)
    assert done == [12]
    channels = 3 if name == "photos" else 1
    assert images.shape == (12, channels, 8, 8)
    assert torch.equal(images, draw(pipeline, REQUEST))
    noise = torch.Generator().manual_seed(REQUEST.seed)
    asked = pipeline(classes_in_turn(range(12), 10), 3, generator=noise, output_type="pt").images
    assert torch.equal(images, asked)
    noise.manual_seed(REQUEST.seed)
    others = pipeline([0] * 12, 3, generator=noise, output_type="pt").images
    same = (others == images).flatten(1).all(1)
    assert same.tolist() == [label == 0 for label in classes_in_turn(range(12), 10)]


def test_other_forms_of_images(written):
    name, _ = written
    pipeline = MAKERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    array = pipeline([1, 2], 2, output_type="np").images
    assert array.shape == (2, 8, 8, 3 if name == "photos" else 1)
    assert [image.size for image in pipeline([1, 2], 2).images] == [(8, 8)] * 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prediction_type": "seven"}, "prediction_type given as seven"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 7.0}, "quantile"),
    ],
)
def test_what_a_scheduler_chokes_on_is_explained(change, why):
    """It looks at these options when it steps."""
    pipeline = DigitsPipeline.around(tiny_unet(1), {"_class_name": "DDIMScheduler"} | change)
    with pytest.raises(CheckpointError, match="The scheduler cannot be used") as error:
        pipeline([0], 2, output_type="pt")
    assert why in str(error.value)


def test_texts_are_refused_by_name(written):
    name, _ = written
    with pytest.raises(RecipeError, match=f"'{name}'"):
        draw(MAKERS[name](), DrawRequest(1, 1, 0, prompts=("a fox",)))


def test_the_transformer_is_drawn_without_torch_too(tmp_path, monkeypatch):
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "bundle"
    save_checkpoint(MAKERS["digits_dit"](), checkpoint)
    fixtures.quantized_bundle(checkpoint, folder, bits="w8a8", targets=(Target.ORT,))
    bundle = read_bundle(folder)
    assert bundle.quantization.family == "digits_dit"
    images = {}
    for loop in SamplingLoop:
        monkeypatch.setattr(sampling, "loop_of", lambda _bundle, loop=loop: loop)
        images[loop] = draw_images(bundle, Runtime.ORT, REQUEST, fixtures.SilentProgress())
    ours, theirs = images[SamplingLoop.NUMPY], images[SamplingLoop.DIFFUSERS]
    assert theirs.std() > 0.02
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()


class ByBrightness(Classifier):
    """Two classes, dark and bright; the features are two means."""

    num_classes, num_features = 2, 2

    def features(self, images):
        return torch.stack([images.mean((1, 2, 3)), images[:, :, 0].mean((1, 2))], 1)

    def forward(self, images):
        level = images.mean((1, 2, 3))
        return torch.stack([-level, level], 1)


def test_a_judge_measures_against_labels_data_and_original():
    generator = torch.Generator().manual_seed(0)
    dark_and_bright = torch.tensor([0.25, 0.75]).repeat(50).view(-1, 1, 1, 1)
    data = dark_and_bright + 0.05 * torch.randn(100, 1, 4, 4, generator=generator)
    judge = ClassifierJudge(ByBrightness(), data)
    itself = judge.measure(data, None)
    assert itself.accuracy == 1
    assert itself.frechet_data == pytest.approx(0, abs=1e-6)
    assert itself.frechet_full_precision is None
    assert itself.psnr_full_precision is None
    changed = data.clone()
    changed[:20] = data[:20].flip(0)  # dark where bright was asked for, and the reverse
    quality = judge.measure(changed + 0.1, data)
    assert quality.accuracy == pytest.approx(0.8)
    # Both features, which are in [-1, 1], move by 0.2.
    assert quality.frechet_data == pytest.approx(0.08, rel=1e-3)
    assert quality.frechet_full_precision == pytest.approx(quality.frechet_data)
    assert judge.frechet(data + 0.1, data) == pytest.approx(0.08, rel=1e-3)
    assert quality.psnr_full_precision < 20


def test_a_family_without_a_judge_says_which_have_one():
    with pytest.raises(BundleError, match="digits, digits_dit, photos"):
        load_judge("general")
