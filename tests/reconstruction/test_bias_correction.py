"""What a quantised model's predictions are off on the mean."""

import copy

import fixtures
import numpy as np
import pytest
import torch
from tiny_walk import CONFIG, SCHEDULER
from torch import nn

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.methods import recipe_of
from mpq_export.methods.quantize import quantize_model
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.bias_correction import prediction_bias
from mpq_export.reconstruction.walk import CalibrationWalk
from mpq_export.runtimes.torch_denoiser import TorchDenoiser
from mpq_export.training.trajectories import full_precision_trajectory

IMAGES = 5
SHIFTS = torch.tensor([[0.5, -0.25], [0.0, 1.0], [-2.0, 0.125]])


class Shifted(nn.Module):
    """A model whose predictions are off by a number for every step and channel."""

    def __init__(self, model):
        super().__init__()
        self.model, self.entry, self.asked = model, 0, []

    def prepare(self, images):
        assert len(images.sample) == len(images.conditions["class_labels"])
        self.entry = images.step.entry
        self.asked.append((self.entry, len(images.sample)))

    def forward(self, *args, **kwargs):
        (prediction,) = self.model(*args, **kwargs)
        return (prediction + SHIFTS[self.entry][:, None, None],)


@pytest.fixture(scope="module")
def walk():
    walk = CalibrationWalk()
    trajectory = full_precision_trajectory(fixtures.tiny_unet(), CONFIG, SCHEDULER, 3, IMAGES, 0)
    for _ in walk.keeping(trajectory):
        pass
    return walk


def test_it_is_the_mean_by_step_and_channel(walk):
    shifted = Shifted(fixtures.tiny_unet())
    bias = prediction_bias(shifted, CONFIG, walk, 3, shifted.prepare)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, -SHIFTS, atol=1e-5)
    assert shifted.asked == [(entry, IMAGES) for entry in range(3)]


def test_steps_of_one_entry_are_taken_together(walk):
    one = CalibrationWalk([copy.copy(step) for step in walk.steps])
    for step in one.steps:
        object.__setattr__(step, "entry", 1)
    shifted = Shifted(fixtures.tiny_unet())
    bias = prediction_bias(shifted, CONFIG, one, 2, shifted.prepare)
    np.testing.assert_allclose(bias, [[0, 0], (-SHIFTS[1]).tolist()], atol=1e-5)


def test_variances_get_none(walk):
    class WithVariance(Shifted):
        def forward(self, *args, **kwargs):
            (prediction,) = super().forward(*args, **kwargs)
            return (torch.cat([prediction, torch.full_like(prediction, 7.0)], dim=1),)

    learned = CalibrationWalk([copy.copy(step) for step in walk.steps])
    for step in learned.steps:
        both = torch.cat([step.prediction, torch.zeros_like(step.prediction)], dim=1)
        object.__setattr__(step, "prediction", both)
    shifted = WithVariance(fixtures.tiny_unet())
    bias = prediction_bias(shifted, CONFIG, learned, 3, shifted.prepare)
    np.testing.assert_allclose(bias[:, :2], -SHIFTS, atol=1e-5)
    assert not bias[:, 2:].any()


FEW = {"iterations": 2}


def few_updates(method):
    """Of all that a method learns, as changes of its recipe."""
    recipe, names = recipe_of(method), ("scaling", "temporal_rounding", "rounding")
    stages = {name: stage for name in names if (stage := getattr(recipe, name)) is not None}
    return {name: stage.model_copy(update=FEW) for name, stage in stages.items()}


@pytest.fixture(scope="module")
def quantized(pipeline_folder):
    """By method, corrected or not."""
    checkpoint, made = load_checkpoint(pipeline_folder), {}

    def of(method, corrected=True):
        if (method, corrected) not in made:
            changes = {"calibration_images": 4, "bias_correction": corrected}
            made[method, corrected] = quantize_model(
                copy.deepcopy(checkpoint.model), checkpoint.model_config,
                checkpoint.scheduler_config, BitSpec(2, 4),
                recipe_of(method).model_copy(update=changes | few_updates(method)),
                fixtures.NUM_STEPS, 0, fixtures.SilentProgress(),
            )  # fmt: skip
        return made[method, corrected]

    return of


@pytest.mark.parametrize("method", ["rtn", "tfmq-dm"])
def test_quantising_ends_with_it_and_changes_nothing_else(quantized, method):
    corrected, plain = quantized(method), quantized(method, corrected=False)
    assert corrected.output_bias.shape == (fixtures.NUM_STEPS, 2)
    assert np.abs(corrected.output_bias).min() > 0
    assert plain.output_bias.shape == (fixtures.NUM_STEPS,)
    assert not plain.output_bias.any()
    assert corrected.parameters.keys() == plain.parameters.keys()
    for name, layer in plain.layers.items():
        np.testing.assert_array_equal(layer.weight.planes, corrected.layers[name].weight.planes)


@pytest.mark.parametrize("method", ["rtn", "dmq", "tfmq-dm"])
def test_what_is_deployed_misses_nothing_on_the_mean(pipeline_folder, tmp_path, method):
    changes = {"calibration_images": 4, "bias_correction": True, **few_updates(method)}
    folder = fixtures.quantized_bundle(pipeline_folder, tmp_path, method, "w2a4", **changes)
    bundle = read_bundle(folder)
    assert (bundle.features is not None) == (method == "tfmq-dm")
    denoise = TorchDenoiser(bundle)
    for step in full_precision_trajectory(
        fixtures.tiny_unet(), CONFIG, SCHEDULER, fixtures.NUM_STEPS, 4, fixtures.SEED
    ):
        prediction = denoise(step.sample, float(step.timestep), **step.conditions)
        missed = (step.prediction - prediction).mean(dim=(0, 2, 3))
        without = missed + torch.from_numpy(bundle.output_bias[step.entry])
        assert missed.abs().max() < 1e-6
        assert without.abs().max() > 1e-3


def test_with_training_it_comes_behind_that(pipeline_folder):
    checkpoint, progress = load_checkpoint(pipeline_folder), fixtures.SilentProgress()
    changes = {"calibration_images": 2, "bias_correction": True}
    recipe = recipe_of("mpq-dmv2").trained_for(3).model_copy(update=changes)
    made = quantize_model(
        checkpoint.model, checkpoint.model_config, checkpoint.scheduler_config, BitSpec(3, 4),
        recipe, fixtures.NUM_STEPS, 0, progress,
    )  # fmt: skip
    assert not made.output_bias.any()
    assert "correct bias" not in progress.tasks
