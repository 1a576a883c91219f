"""Whole numbers with gradients: forward the contract's, backward what the surrogate's slope is."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpq_export.core.integer_reference import activation_codes
from mpq_export.core.planes import SnappedLevels, integers, nearest_codes
from mpq_export.core.straight_through import (
    activation_integers,
    code_bits,
    rounded,
    weight_integers,
)
from mpq_export.core.straight_through import nearest_codes as nearest_codes_in_torch

from .strategies import TINY, floats32, normal_scales, random_levels, seeds, weight_rows

DENORMAL = 1e-40


def tensor(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def arguments(levels: SnappedLevels) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tensor(levels.scale), tensor(levels.offset), tensor(levels.steps)


def assert_same_codes(weights: NDArray[np.float32], levels: SnappedLevels) -> None:
    expected = nearest_codes(weights.astype(np.float64), levels)
    found = nearest_codes_in_torch(tensor(weights), *arguments(levels))
    np.testing.assert_array_equal(found.numpy(), expected)
    whole = weight_integers(tensor(weights), *arguments(levels))
    np.testing.assert_array_equal(
        whole.numpy(), integers(levels.offset, levels.steps, expected).astype(np.float32)
    )


@st.composite
def levels_of(draw: st.DrawFn, rows: int) -> SnappedLevels:
    """Any levels, equal ones and missing planes included, at any float32 scale above 0."""
    rng = np.random.default_rng(draw(seeds))
    planes = draw(st.integers(1, 8))
    counts = rng.integers(1, planes + 1, rows)
    counts[0] = planes
    offset, steps = random_levels(rng, counts)
    if draw(st.booleans()):
        steps = np.where(rng.random(steps.shape) < 0.3, 0, steps).astype(np.int8)
    scale = draw(
        st.lists(normal_scales | st.just(DENORMAL) | st.just(TINY), min_size=rows, max_size=rows)
    )
    return SnappedLevels(np.array(scale, np.float32).astype(np.float64), offset, steps)


@given(st.data())
def test_codes_and_integers_are_the_contracts(data):
    weights = data.draw(weight_rows())
    levels = data.draw(levels_of(len(weights)))
    assert_same_codes(weights.astype(np.float32), levels)


@given(st.data())
def test_weights_on_and_beside_borders(data):
    """The float32 nearest to every border, and its two neighbours."""
    levels = data.draw(levels_of(3))
    bits = code_bits(levels.steps.shape[1], torch.device("cpu")).numpy()
    table = np.sort(levels.offset[:, None] + levels.steps.astype(int) @ bits.T.astype(int), axis=1)
    middle = (table[:, 1:] + table[:, :-1]) * 0.5
    with np.errstate(over="ignore"):
        borders = (levels.scale[:, None] * middle).astype(np.float32)
    below, above = (np.nextafter(borders, np.float32(end)) for end in (-np.inf, np.inf))
    weights = np.concatenate([borders, below, above], axis=1)
    assert_same_codes(weights[:, np.isfinite(weights).all(axis=0)], levels)


def test_every_plane_count_has_all_its_codes():
    for planes in range(1, 9):
        steps = np.array([[1, 2, 4, 8, 16, 32, 64, 127][:planes]], np.int8)
        levels = SnappedLevels(np.array([0.5]), np.array([-127], np.int8), steps)
        weights = 0.5 * (np.arange(-127, -127 + 2 ** min(planes, 7))[None]).astype(np.float32)
        assert_same_codes(weights, levels)


@given(seeds, st.integers(2, 8), normal_scales, st.lists(floats32, max_size=20))
def test_activation_integers_are_the_contracts(seed, bits, scale, others):
    rng = np.random.default_rng(seed)
    zero_point = int(rng.integers(0, 2**bits))
    halves = np.arange(-4, 2**bits + 4) - zero_point + 0.5
    anywhere = rng.standard_normal(50) * 2**bits
    with np.errstate(over="ignore"):
        near = (np.concatenate([halves, anywhere]) * scale).astype(np.float32)
    x = np.concatenate([near, others, [np.inf, -np.inf]]).astype(np.float32)
    expected = activation_codes(x, np.float32(scale), zero_point, bits).astype(int) - zero_point
    found = activation_integers(
        tensor(x), torch.tensor(scale), torch.tensor(float(zero_point)), bits
    )
    np.testing.assert_array_equal(found.numpy(), expected)


def test_what_is_no_number_stays_none():
    """So that a loss tells of it; deployed, an activation that is no number has code 0."""
    nan = torch.tensor([[float("nan"), 1.0]])
    scale, offset, steps = torch.ones(1), torch.zeros(1), torch.ones(1, 2)
    assert weight_integers(nan, scale, offset, steps).isnan().tolist() == [[True, False]]
    assert activation_integers(nan, scale, offset, 4).isnan().tolist() == [[True, False]]


# --- gradients --------------------------------------------------------------------------------


def random_problem():
    """x, scales, zero points and an output's gradient; many of x are clamped."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 7, generator=generator) * 4
    scale = torch.rand(5, 1, 1, generator=generator) + 0.3
    zero_point = torch.randint(0, 8, (5, 1, 1), generator=generator).float()
    grad = torch.randn(x.shape, generator=generator)
    return x, scale, zero_point, grad


def test_gradients_of_activations_are_the_surrogates():
    """Those of ``clamp(x / s + z) - z`` without the rounding, whose clamps are where codes are."""
    x, scale, zero_point, grad = (t.double() for t in random_problem())
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
    code = (x / scale).round() + zero_point
    inside = (code >= 0) & (code <= 7)
    assert 0.1 < inside.double().mean() < 0.9
    smooth = leaves[0] / leaves[1] + leaves[2]
    end = torch.where(code < 0, 0.0, 7.0).double()
    (torch.where(inside, smooth, end) - leaves[2]).backward(grad)
    found = [t.float().requires_grad_() for t in (x, scale, zero_point)]
    activation_integers(*found, 3).backward(grad.float())
    for one, other in zip(found, leaves, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_activations_are_slopes():
    """Finite differences over many steps of rounding: its staircase has the surrogate's slope."""
    scale, zero_point = torch.tensor(0.01), torch.tensor(100.0)
    x = torch.linspace(-0.9, 1.5, 2000).requires_grad_()
    activation_integers(x, scale, zero_point, 8).sum().backward()
    step = 2.0 * float(scale)
    with torch.no_grad():
        ahead, behind = (
            activation_integers(x + way * step, scale, zero_point, 8) for way in (1, -1)
        )
    slope = (ahead - behind) / (2 * step)
    assert float(((slope - x.grad).abs() > 1e-2 / float(scale)).float().mean()) == 0
    # Per scale: s * x_int is x inside, so that only what is clamped, and the rounding, is left.
    s = scale.clone().requires_grad_()
    (s * activation_integers(x.detach(), s, zero_point, 8)).sum().backward()
    whole = activation_integers(x.detach(), scale, zero_point, 8)
    clamped = (whole == -100) | (whole == 155)
    rounding = torch.where(clamped, whole, whole - x.detach() / scale)
    torch.testing.assert_close(s.grad, rounding.sum(), rtol=1e-3, atol=1e-2)


def test_zero_points_and_scales_may_be_broadcast_differently():
    x, scale, _, grad = random_problem()
    zero_point = torch.tensor([3.0, 4.0, 2.0]).view(1, 3, 1).requires_grad_()
    scale.requires_grad_()
    activation_integers(x, scale, zero_point, 3).backward(grad)
    assert scale.grad.shape == scale.shape
    assert zero_point.grad.shape == zero_point.shape
    code = (x / scale.detach()).round() + zero_point.detach()
    outside = (code < 0) | (code > 7)
    expected = -(grad * outside).sum(dim=(0, 2)).view(1, 3, 1)
    torch.testing.assert_close(zero_point.grad, expected)


def test_gradients_of_weights_and_levels():
    generator = torch.Generator().manual_seed(1)
    weights = (torch.randn(4, 50, generator=generator)).requires_grad_()
    scale = torch.tensor([0.1, 0.2, 0.3, 0.05])
    offset = torch.tensor([-3.0, -2.0, 0.0, -9.0]).requires_grad_()
    steps = torch.tensor([[1.0, 2, 4], [3, 3, 1], [2, 0, 0], [5, 7, 11]]).requires_grad_()
    grad = torch.randn(4, 50, generator=generator)
    whole = weight_integers(weights, scale, offset, steps)
    whole.backward(grad)
    codes = nearest_codes_in_torch(weights.detach(), scale, offset.detach(), steps.detach())
    bits = code_bits(3, weights.device)[codes.long()]
    # Linear in offset and steps for the codes that were chosen.
    expected = offset[:, None] + (bits * steps[:, None]).sum(dim=2)
    assert torch.equal(whole, expected)
    torch.testing.assert_close(offset.grad, grad.sum(dim=1))
    torch.testing.assert_close(steps.grad, (grad[:, :, None] * bits).sum(dim=1))
    low = (scale * offset.detach())[:, None]
    high = low + (scale * steps.detach().sum(dim=1))[:, None]
    inside = (weights >= low) & (weights <= high)
    assert 0.2 < inside.float().mean() < 0.95
    torch.testing.assert_close(weights.grad, torch.where(inside, grad / scale[:, None], 0.0))


@given(st.lists(st.floats(-300, 300, width=32), min_size=1))
def test_rounding_is_exact_and_passes_its_gradient(values):
    value = torch.tensor(values, requires_grad=True)
    whole = rounded(value)
    np.testing.assert_array_equal(whole.detach().numpy(), np.rint(np.array(values, np.float32)))
    whole.sum().backward()
    assert torch.equal(value.grad, torch.ones_like(value))
