"""Smoothing: the layer stays the same function, and ranges meet half way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.equalization import smoothing_factors

from .strategies import seeds


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Normal float32 of very different channels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.exp(
        2 * torch.randn(shape[1], generator=generator)
    ).view(1, -1, *(1 for _ in shape[2:]))


@given(seeds, st.integers(1, 12))
def test_linear_ranges_meet_half_way(seed, channels):
    """x / g and W * g have the same ratio in every channel, and g has geometric mean 1."""
    weight = random((5, channels), seed % 1000)
    reach = random((1, channels), seed % 997 + 1).abs()[0] + 1e-3
    g = smoothing_factors(reach, weight)
    assert g.dtype == torch.float32
    ratio = (reach / g) / (weight.abs().amax(dim=0) * g)
    torch.testing.assert_close(ratio, ratio.mean().expand(channels), rtol=1e-4, atol=0)
    assert g.double().log().mean().abs() < 1e-5


@given(seeds)
def test_convolution_takes_all_taps(seed):
    weight = random((4, 6, 3, 2), seed % 1000)
    reach = torch.linspace(0.5, 8, 6)
    flat = weight.permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(smoothing_factors(reach, weight), smoothing_factors(reach, flat))


@pytest.mark.parametrize("group", [2, 3, 6])
def test_groups_read_their_own_channels(group):
    """As if every group were a layer, up to the common factor."""
    weight = random((6, 6 // group, 3, 3), 5)
    reach = torch.linspace(0.5, 8, 6)
    g = smoothing_factors(reach, weight, group)
    expected = []
    rows, channels = 6 // group, 6 // group
    for index in range(group):
        own = weight[index * rows : (index + 1) * rows]
        for channel in range(channels):
            seen = reach[index * channels + channel]
            expected.append((seen / own[:, channel].abs().max()).sqrt())
    expected = torch.stack(expected)
    torch.testing.assert_close(g, expected / expected.log().mean().exp())


def test_the_layer_stays_the_same_function():
    weight, x = random((7, 9), 1), random((4, 9), 2)
    g = smoothing_factors(x.abs().amax(dim=0), weight)
    smoothed = (x / g).double() @ (weight * g).double().T
    torch.testing.assert_close(smoothed, x.double() @ weight.double().T, rtol=1e-5, atol=1e-5)


def test_outlier_channel_is_tamed():
    weight = torch.ones(3, 4)
    g = smoothing_factors(torch.tensor([1.0, 1.0, 1.0, 10_000.0]), weight)
    smoothed = torch.tensor([1.0, 1.0, 1.0, 10_000.0]) / g
    assert smoothed.max() / smoothed.min() == pytest.approx(100, rel=1e-4)


def test_channels_that_are_always_zero_get_one():
    weight = torch.tensor([[1.0, 0.0, 2.0, 0.0], [3.0, 0.0, 4.0, 0.0]])
    g = smoothing_factors(torch.tensor([0.0, 5.0, 8.0, 0.0]), weight)
    assert g[[0, 1, 3]].tolist() == [1, 1, 1]
    # The only usable channel is its own geometric mean.
    assert g[2] == 1


def test_a_layer_of_zeros_gets_ones():
    assert smoothing_factors(torch.zeros(3), torch.zeros(2, 3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("reach", [1e-38, 1e-20, 1e20, 3e38])
@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e20, 3e38])
def test_extreme_ranges_give_normal_factors(reach, size):
    """What is stored is 1 / g, and the contract wants it normal and positive."""
    g = smoothing_factors(torch.tensor([reach, 1.0, 1.0]), torch.tensor([[size, 1.0, 1.0]]))
    tiny = torch.finfo(torch.float32).tiny
    for value in (g, 1 / g):
        assert torch.all(torch.isfinite(value) & (value >= tiny))
