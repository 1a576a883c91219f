"""The stage that learns rounding: better than the nearest levels, the same again, resumable."""

import signal

import fixtures
import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten

from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.integer_reference import check_layer
from mpq_export.core.layers import shared_copy
from mpq_export.core.learned_rounding import LearnedRounding, RoundedLayer
from mpq_export.core.planes import unpack
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import quantize_weight
from mpq_export.errors import Interrupted
from mpq_export.methods import recipe_of
from mpq_export.methods.quantize import quantize_model
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.calls import BlockCalls
from mpq_export.reconstruction.choices import RoundingChoices
from mpq_export.reconstruction.finished import NOTHING_KEPT, KeptParts
from mpq_export.reconstruction.rounding import fit_rounding

CHOICES = RoundingChoices(iterations=30, samples=12, batch=4, rate=0.03)


class Watching(fixtures.SilentProgress):
    """Keeps the notes of the stage, and sends Ctrl-C after so many blocks."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.errors, self.stop_after = {}, stop_after

    def note(self, text):
        name, _, figures = text.partition(": ")
        self.errors[name] = tuple(map(float, figures.split(" to ")))
        if len(self.errors) == self.stop_after:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    return load_checkpoint(pipeline_folder)


def quantize(checkpoint, choices=CHOICES, finished=NOTHING_KEPT, progress=None, method="rtn"):
    changes = {"calibration_images": 4, "rounding": choices}
    recipe = recipe_of(method).trained_for(0).model_copy(update=changes)
    return quantize_model(
        shared_copy(checkpoint.model), checkpoint.model_config, checkpoint.scheduler_config,
        BitSpec(3, 8), recipe, fixtures.NUM_STEPS, 0, progress or fixtures.SilentProgress(),
        None, finished,
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned(checkpoint):
    progress = Watching()
    return quantize(checkpoint, progress=progress), progress.errors


def test_blocks_are_nearer_to_full_precision(checkpoint, learned):
    quantized, errors = learned
    gains = [after / before for before, after in errors.values() if before > 0]
    assert len(gains) > 10
    assert np.median(gains) < 0.9
    nearest = quantize(checkpoint, None)
    for name, layer in quantized.layers.items():
        check_layer(layer)
        start = nearest.layers[name]
        np.testing.assert_array_equal(layer.act_scale, start.act_scale)
        np.testing.assert_array_equal(layer.weight.steps, start.weight.steps)
        if name in quantized.plan.eight_bit:
            np.testing.assert_array_equal(layer.weight.planes, start.weight.planes)
    changed = sum(
        not np.array_equal(la.weight.planes, nearest.layers[name].weight.planes)
        for name, la in quantized.layers.items()
    )
    assert changed > 20


def test_errors_of_inputs_that_go_together_are_made_to_cancel():
    """A made case in which learning must win: where all inputs are nearly alike, what counts is the
    sum of a row's errors, of which nearest rounding knows nothing."""
    columns, generator = 8, torch.Generator().manual_seed(0)
    weights = torch.rand(4, columns, generator=generator) * 2 - 1
    start = quantize_weight(weights, 3, WeightForm.UNIFORM, Allocation.EQUAL, None)
    rounding = LearnedRounding(weights, start)
    layer = RoundedLayer(rounding, np.ones(columns, np.float32), torch.zeros(4), None)
    x = torch.ones(64, columns) + 0.05 * torch.randn(64, columns, generator=generator)
    targets = x @ weights.T
    _, structure = tree_flatten(((x,), {}))
    calls = BlockCalls({0: x}, {}, structure, targets, torch.zeros(64, dtype=torch.long))
    choices = RoundingChoices(iterations=300, samples=64, batch=16, rate=0.03)
    fit_rounding(
        layer, [rounding], calls, targets, choices, torch.Generator().manual_seed(0), Watching()
    )

    def error(made):
        return float((x @ made.T - targets).square().sum())

    assert error(rounding.hard()) < 0.25 * error(torch.from_numpy(start.weights()))


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(checkpoint, learned, tmp_path):
    kept = KeptParts(tmp_path / "parts")
    with pytest.raises(Interrupted, match="Stopped"):
        quantize(checkpoint, finished=kept, progress=Watching(stop_after=3))
    assert 2 <= len(list(kept.folder.iterdir())) <= 4
    progress = Watching()
    resumed = quantize(checkpoint, finished=kept, progress=progress)
    whole, errors = learned
    assert 0 < len(progress.errors) < len(errors)
    for name, layer in whole.layers.items():
        np.testing.assert_array_equal(layer.weight.planes, resumed.layers[name].weight.planes)


def test_worse_than_nearest_is_not_kept(checkpoint):
    """Rates at which nothing is learned but noise."""
    progress = Watching()
    wild = CHOICES.model_copy(
        update={"iterations": 2, "rate": 1.0, "penalty": 1000.0, "warm_up": 0.0}
    )
    quantized = quantize(checkpoint, wild, progress=progress)
    nearest = quantize(checkpoint, None)
    worse = [name for name, (before, after) in progress.errors.items() if after > before]
    assert worse
    for name in worse:
        for layer in quantized.layers:
            if layer == name or layer.startswith(f"{name}."):
                np.testing.assert_array_equal(
                    unpack(quantized.layers[layer].weight).codes,
                    unpack(nearest.layers[layer].weight).codes,
                )


@pytest.mark.parametrize("method", ["mpq-dm", "mpq-dmv2"])
def test_every_form_of_planes_can_be_rounded(checkpoint, method):
    short = CHOICES.model_copy(update={"iterations": 2})
    for layer in quantize(checkpoint, short, method=method).layers.values():
        check_layer(layer)


def test_the_penalty_comes_after_the_warm_up():
    choices = RoundingChoices(iterations=10, warm_up=0.2)
    betas = [choices.beta(i) for i in range(10)]
    assert betas[:3] == [None, None, 20.0]
    assert betas[3:] == sorted(betas[3:], reverse=True)
    assert 2 < betas[-1] < 5
    assert torch.isfinite(torch.tensor(betas[2:])).all()
