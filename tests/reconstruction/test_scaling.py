"""Learned equivalent scaling of one layer."""

from dataclasses import replace

import pytest
import torch

from mpq_export.core.activation_quantizer import fit_table
from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.integer_reference import ConvGeometry
from mpq_export.core.table_steps import TableSteps
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import quantize_weight
from mpq_export.reconstruction.choices import ScalingChoices
from mpq_export.reconstruction.patches import Patches
from mpq_export.reconstruction.scaling import (
    ScaledLayer,
    _fitted,
    _smoothing,
    learn_scaling,
    scaled_weights,
)
from mpq_export.training.calibration import InputStatistics

T, ROWS, CHANNELS = 4, 24, 32
CHOICES = ScalingChoices(iterations=120, samples=400, batch=64, rate=0.03, refits=3)


def layer_and_patches(outlier=6.0, conv=None, form=WeightForm.UNIFORM, act_bits=4):
    """A layer of which two input channels are ``outlier`` times as large as the others."""
    generator = torch.Generator().manual_seed(0)
    taps = 1 if conv is None else 9
    weights = torch.randn(ROWS, CHANNELS * taps, generator=generator)
    spread = torch.ones(CHANNELS)
    spread[[3, 17]] = outlier
    rows = torch.randn(400, CHANNELS * taps, generator=generator) * spread.repeat(taps)
    entries = torch.arange(400) % T
    by_channel = rows.view(100, T, taps, CHANNELS).permute(1, 0, 2, 3).reshape(T, -1, CHANNELS)
    channels = torch.randint(0, CHANNELS, (300,), generator=generator)
    places = torch.randint(0, by_channel.shape[1], (300,), generator=generator)
    seen = InputStatistics(
        by_channel.amin(dim=1), by_channel.amax(dim=1), by_channel[:, places, channels], channels,
        rows[:64],
    )  # fmt: skip
    layer = ScaledLayer(
        weights, conv, seen, 4, act_bits, form, Allocation.EQUAL, TableSteps.PER_STEP
    )
    return layer, Patches(rows, entries)


def error_with(layer, patches, tau):
    """Relative squared error of the deployed quantisers."""
    weights = scaled_weights(layer.weights, tau, layer.conv)
    w = torch.from_numpy(
        quantize_weight(weights, layer.bits, layer.form, layer.allocation, None).weights()
    )
    seen = layer.seen
    table = fit_table(
        seen.samples / tau[seen.sample_channels], torch.ones(300),
        (seen.low / tau).amin(dim=1), (seen.high / tau).amax(dim=1), layer.act_bits,
    )  # fmt: skip
    step = torch.from_numpy(table.scale)[patches.entries][:, None]
    zero = torch.from_numpy(table.zero_point)[patches.entries][:, None]
    codes = ((patches.rows / tau) / step).round() + zero
    x = (codes.clamp(0, 2**layer.act_bits - 1) - zero) * step
    target = patches.rows @ layer.weights.T
    return float((x @ w.T - target).square().sum() / target.square().sum())


def test_large_channels_are_divided():
    layer, patches = layer_and_patches()
    tau = learn_scaling([layer], patches, CHOICES, seed=0)
    outliers = torch.zeros(CHANNELS, dtype=torch.bool)
    outliers[[3, 17]] = True
    assert tau[outliers].min() > 1.5 * tau[~outliers].median()
    assert tau.log().mean().abs() < 1e-5
    before, after = (error_with(layer, patches, factors) for factors in (torch.ones(CHANNELS), tau))
    assert after < 0.7 * before


def test_what_is_learned_is_better_than_what_it_began_with():
    """Eight bits of weights could take all of the outliers: neither 1 nor the square roots of
    smoothing, of which the better one is the start, are near the best factors."""
    layer, patches = layer_and_patches(outlier=16.0)
    layer = replace(layer, bits=8)
    tau = learn_scaling([layer], patches, CHOICES, seed=0)
    starts = (torch.ones(CHANNELS), _smoothing([layer]))
    before = min(error_with(layer, patches, start) for start in starts)
    assert error_with(layer, patches, tau) < 0.5 * before


def test_factors_stay_within_what_the_recipe_allows():
    """Where neither start is beyond it: smoothing sees as much spread in weights as in inputs."""
    layer, patches = layer_and_patches(outlier=16.0)
    weights = layer.weights.clone()
    weights[0, [3, 17]] *= 16
    layer = replace(layer, weights=weights, bits=8)
    wide, narrow = (
        learn_scaling(
            [layer], patches, CHOICES.model_copy(update={"largest_factor": largest}), seed=0
        )
        for largest in (64.0, 1.2)
    )
    assert wide.max() / wide.min() > 3
    assert 1.2 < narrow.max() / narrow.min() < 1.2**2 + 1e-4


@pytest.mark.parametrize("form", WeightForm)
def test_every_form_and_convolutions_are_scaled(form):
    layer, patches = layer_and_patches(conv=ConvGeometry((3, 3)), form=form)
    tau = learn_scaling([layer, layer], patches, CHOICES.model_copy(update={"iterations": 30}), 0)
    assert tau.shape == (CHANNELS,)
    assert tau[3] > 1


def test_steps_that_share_a_range_are_fitted_as_such():
    """The quantisers that are compared are those of the recipe's tables."""
    layer, patches = layer_and_patches()
    spread = torch.tensor([0.1, 1.0, 1.0, 4.0])[:, None]
    seen = replace(
        layer.seen,
        low=layer.seen.low * spread,
        high=layer.seen.high * spread,
        samples=layer.seen.samples * spread,
    )
    tau = torch.ones(CHANNELS)
    for clipped in (False, True):
        own, shared = (
            _fitted(replace(layer, seen=seen, tables=tables), tau, patches.rows, clipped)
            for tables in TableSteps
        )
        assert len(set(own.act_scale.tolist())) > 1
        assert len(set(shared.act_scale.tolist())) == 1
        assert shared.act_scale.shape == own.act_scale.shape
        assert len(set(shared.act_range.tolist())) == 1
        assert shared.act_range[0] >= own.act_range.max()


def test_rates_at_which_nothing_is_learned_do_no_harm():
    layer, patches = layer_and_patches(outlier=1.0, act_bits=8)
    wild = CHOICES.model_copy(update={"iterations": 5, "rate": 1.0})
    tau = learn_scaling([layer], patches, wild, seed=0)
    one = error_with(layer, patches, torch.ones(CHANNELS))
    assert error_with(layer, patches, tau) < 1.02 * one


def test_the_same_seed_gives_the_same_factors():
    layer, patches = layer_and_patches()
    first, again, other = (
        learn_scaling([layer], patches, CHOICES.model_copy(update={"iterations": 20}), seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_scaling_is_equivalent_before_rounding():
    layer, patches = layer_and_patches(conv=ConvGeometry((3, 3)))
    tau = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(1)) + 0.5
    scaled = scaled_weights(patches.rows, 1 / tau, layer.conv)
    torch.testing.assert_close(
        scaled @ scaled_weights(layer.weights, tau, layer.conv).T,
        patches.rows @ layer.weights.T,
        atol=1e-3,
        rtol=1e-4,
    )
