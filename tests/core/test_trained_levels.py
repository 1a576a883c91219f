"""Trained levels: they begin as fitted, and whatever an update does they can be stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.planes import PlaneMatrix, check, pack
from mpq_export.core.straight_through import code_bits, nearest_codes
from mpq_export.core.trained_levels import TrainedLevels
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import quantize_weight

from .strategies import seeds, weight_rows

FORMS = st.sampled_from(list(WeightForm))
ALLOCATIONS = st.sampled_from(list(Allocation))


def fitted(weights: np.ndarray, bits: int, form: WeightForm, allocation: Allocation) -> PlaneMatrix:
    if bits == 8 or len(weights) < 2:
        allocation = Allocation.EQUAL
    return quantize_weight(torch.from_numpy(weights).float(), bits, form, allocation, None)


def ordinary_rows(rows: int = 12, columns: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(4, (rows, columns)) * rng.uniform(0.01, 3, (rows, 1))
    weights[0], weights[1] = 0, -0.7
    return weights.astype(np.float32)


def real_levels(levels: TrainedLevels) -> np.ndarray:
    """All levels of all rows by code, float64 ``[O, 2**P]``."""
    with torch.no_grad():
        offset, steps = levels.integers()
        bits = code_bits(steps.shape[1], steps.device)
        return (levels.scale()[:, None].double() * (offset[:, None] + steps @ bits.T)).numpy()


def stored(levels: TrainedLevels, weights: np.ndarray) -> PlaneMatrix:
    """The matrix as it would be packed."""
    with torch.no_grad():
        scale, (offset, steps) = levels.scale(), levels.integers()
        codes = nearest_codes(torch.from_numpy(weights).float(), scale, offset, steps)
    return PlaneMatrix(
        offset.numpy().astype(np.int8), steps.numpy().astype(np.int8), codes.numpy(),
        levels.plane_count.numpy(), scale.numpy(),
    )  # fmt: skip


def shake(levels: TrainedLevels, seed: int, by: float) -> None:
    """A change of every parameter such as no single update makes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in levels.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def assert_same_levels(found: np.ndarray, start: PlaneMatrix, within: float = 3e-7) -> None:
    bits = code_bits(start.steps.shape[1], torch.device("cpu")).numpy().astype(int)
    whole = start.offset[:, None].astype(int) + start.steps.astype(int) @ bits.T
    expected = start.scale[:, None].astype(np.float64) * whole
    np.testing.assert_allclose(found, expected, rtol=within, atol=0)


@settings(max_examples=60)
@given(weight_rows(), st.integers(2, 8), FORMS, ALLOCATIONS)
def test_they_begin_exactly_as_fitted(weights, bits, form, allocation):
    start = fitted(weights, bits, form, allocation)
    levels = TrainedLevels(start, form, bits)
    assert_same_levels(real_levels(levels), start)
    check(pack(stored(levels, weights)))


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("allocation", Allocation)
@pytest.mark.parametrize("bits", range(2, 9))
def test_ordinary_rows_begin_as_fitted(bits, form, allocation):
    weights = ordinary_rows(24)
    start = fitted(weights, bits, form, allocation)
    levels = TrainedLevels(start, form, bits)
    assert_same_levels(real_levels(levels), start)
    if levels.is_fixed:
        again = stored(levels, weights)
        for name in ("offset", "steps", "scale", "plane_count"):
            np.testing.assert_array_equal(getattr(again, name), getattr(start, name))


@settings(max_examples=60)
@given(weight_rows(), st.integers(2, 8), FORMS, ALLOCATIONS, seeds, st.sampled_from([0.1, 1, 4]))
def test_after_any_update_they_can_be_stored(weights, bits, form, allocation, seed, by):
    levels = TrainedLevels(fitted(weights, bits, form, allocation), form, bits)
    for update in range(3):
        shake(levels, seed + update, by)
        levels.project()
        check(pack(stored(levels, weights)))


@pytest.mark.parametrize("form", [WeightForm.RESIDUAL, WeightForm.FREE])
@pytest.mark.parametrize("seed", range(4))
def test_projection_keeps_the_levels(form, seed):
    levels = TrainedLevels(fitted(ordinary_rows(), 4, form, Allocation.KURTOSIS), form, 4)
    shake(levels, seed, 0.5)
    before, scale = real_levels(levels), levels.scale().detach().numpy()
    assert max(abs(part).max() for part in map(torch.Tensor.numpy, no_grad_integers(levels))) > 127
    levels.project()
    coarser = levels.scale().detach().numpy()
    assert np.all(coarser >= scale * (1 - 1e-6))
    # Offset and every step are rounded once before and once after.
    parts = 1 + levels.plane_count.numpy()
    error = np.abs(real_levels(levels) - before).max(axis=1)
    assert np.all(error <= 0.5 * parts * (coarser + scale) * 1.001)
    whole = [part.clone() for part in no_grad_integers(levels)]
    levels.project()
    assert all(map(torch.equal, whole, no_grad_integers(levels)))


def no_grad_integers(levels: TrainedLevels) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return levels.integers()


@pytest.mark.parametrize(("form", "bits"), [(WeightForm.UNIFORM, 3), (WeightForm.FREE, 8)])
def test_uniform_grids_train_their_scale_alone(form, bits):
    start = fitted(ordinary_rows(), bits, form, Allocation.EQUAL)
    levels = TrainedLevels(start, form, bits)
    assert [name for name, _ in levels.named_parameters()] == ["log_scale"]
    shake(levels, 0, 2.0)
    levels.project()
    offset, steps = no_grad_integers(levels)
    np.testing.assert_array_equal(offset, start.offset)
    np.testing.assert_array_equal(steps, start.steps)


def test_the_base_of_a_residual_form_stays_uniform():
    start = fitted(ordinary_rows(), 4, WeightForm.RESIDUAL, Allocation.KURTOSIS)
    levels = TrainedLevels(start, WeightForm.RESIDUAL, 4)
    shake(levels, 3, 0.3)
    levels.project()
    _, steps = no_grad_integers(levels)
    base = steps[levels.plane_count >= 3][:, :3]
    # Three planes of one step, each rounded on its own.
    assert torch.all((base[:, 1] - 2 * base[:, 0]).abs() <= 1.5)
    assert torch.all((base[:, 2] - 2 * base[:, 1]).abs() <= 1.5)
    free = TrainedLevels(start, WeightForm.FREE, 4)
    shake(free, 3, 0.3)
    free.project()
    _, steps = no_grad_integers(free)
    assert torch.any((steps[:, 1] - 2 * steps[:, 0]).abs() > 1.5)


def test_rows_of_one_level_survive():
    """All-zero and constant rows have no step that could grow."""
    weights = ordinary_rows()
    levels = TrainedLevels(
        fitted(weights, 3, WeightForm.FREE, Allocation.EQUAL), WeightForm.FREE, 3
    )
    shake(levels, 0, 0.1)
    levels.project()
    offset, steps = no_grad_integers(levels)
    assert offset[0] == 0
    assert offset[1] < 0
    assert not torch.any(steps[:2])
    assert torch.all(steps[2:].sum(dim=1) > 0)


def test_gradients_reach_every_parameter():
    weights = torch.from_numpy(ordinary_rows()[2:]).requires_grad_()
    start = fitted(weights.detach().numpy(), 4, WeightForm.RESIDUAL, Allocation.KURTOSIS)
    levels = TrainedLevels(start, WeightForm.RESIDUAL, 4)
    whole = levels(weights)
    (levels.scale()[:, None] * whole - weights.detach()).square().sum().backward()
    for name, parameter in [("weights", weights), *levels.named_parameters()]:
        assert torch.any(parameter.grad != 0), name


def test_mean_spacing_is_that_of_a_uniform_grid():
    start = fitted(ordinary_rows()[2:], 4, WeightForm.UNIFORM, Allocation.EQUAL)
    levels = TrainedLevels(start, WeightForm.UNIFORM, 4)
    assert levels.mean_spacing() == pytest.approx(float(start.scale.mean()))
