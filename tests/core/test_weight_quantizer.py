"""Quantising a matrix: plane counts, the row that was chosen, and the error that counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_export.core import plane_fit
from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.planes import PlaneMatrix, check, pack
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import fit_rows, quantize_weight, row_errors

from .strategies import seeds, weight_rows

MIXED = (Allocation.KURTOSIS, Allocation.ERROR_GAIN)


def weights(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed rows of different energy."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(4, (rows, columns)) * np.exp(rng.standard_normal((rows, 1)))
    return torch.from_numpy(values).float()


def same_rows(a: PlaneMatrix, b: PlaneMatrix) -> None:
    """Assert that two matrices are equal."""
    for name in ("offset", "steps", "codes", "plane_count", "scale"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("allocation", Allocation)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_mean_plane_count_is_exactly_n(form, allocation, rows):
    for bits in range(2, 9):
        matrix = quantize_weight(weights(rows, 40), bits, form, allocation, None)
        assert matrix.plane_count.sum() == rows * bits
        assert set(matrix.plane_count.tolist()) <= {bits - 1, bits, bits + 1}
        assert matrix.steps.shape == (rows, matrix.plane_count.max())
        check(pack(matrix))


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("allocation", Allocation)
def test_eight_bits_are_uniform_symmetric_and_equal(form, allocation):
    matrix = quantize_weight(weights(5, 60), 8, form, allocation, None)
    np.testing.assert_array_equal(matrix.plane_count, 8)
    np.testing.assert_array_equal(matrix.offset, -127)
    np.testing.assert_array_equal(matrix.steps, [[1, 2, 4, 8, 16, 32, 64, 127]] * 5)


@pytest.mark.parametrize("bits", range(2, 8))
def test_uniform_rows_are_uniform(bits):
    for allocation in Allocation:
        matrix = quantize_weight(weights(6, 50), bits, WeightForm.UNIFORM, allocation, None)
        for offset, steps, planes in zip(
            matrix.offset, matrix.steps, matrix.plane_count, strict=True
        ):
            if planes == 8:
                assert (offset, steps.tolist()) == (-127, [1, 2, 4, 8, 16, 32, 64, 127])
                continue
            assert steps[:planes].tolist() == [2**p for p in range(planes)]
            assert -(2**planes) < offset <= 0


@given(weight_rows(), st.integers(2, 7), st.sampled_from(WeightForm), st.sampled_from(Allocation))
@settings(max_examples=60)
def test_awkward_rows_keep_the_contract(rows, bits, form, allocation):
    # Beyond 1e38 a level can round to infinity.
    data = torch.from_numpy(rows.clip(-1e38, 1e38)).float()
    matrix = quantize_weight(data, bits, form, allocation, None)
    check(pack(matrix))
    assert matrix.plane_count.sum() == len(rows) * bits


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("allocation", MIXED)
def test_every_row_is_the_one_fitted_with_its_plane_count(form, allocation):
    data = weights(8, 70, seed=3)
    matrix = quantize_weight(data, 3, form, allocation, None)
    assert len(set(matrix.plane_count.tolist())) > 1
    rows = plane_fit.SortedRows.of(data)
    for planes in set(matrix.plane_count.tolist()):
        levels = fit_rows(rows, planes, 3, form).levels
        here = matrix.plane_count == planes
        np.testing.assert_array_equal(matrix.offset[here], levels.offset[here])
        np.testing.assert_array_equal(matrix.steps[here, :planes], levels.steps[here])
        assert not matrix.steps[here, planes:].any()


@pytest.mark.parametrize("allocation", Allocation)
def test_blocks_of_rows_do_not_show(monkeypatch, allocation):
    data = weights(9, 40, seed=4)
    whole = quantize_weight(data, 3, WeightForm.FREE, allocation, None)
    monkeypatch.setattr(plane_fit, "CHUNK_ELEMENTS", 80)
    assert [len(block) for block in plane_fit.chunks(data)] == [2, 2, 2, 2, 1]
    same_rows(quantize_weight(data, 3, WeightForm.FREE, allocation, None), whole)


@pytest.mark.parametrize("form", WeightForm)
def test_error_gain_is_no_worse_than_kurtosis_nor_equal_planes(form):
    """Up to the rows at the border of the convexified errors, of which there is at most one."""
    data = weights(40, 120, seed=5)
    errors = {
        allocation: row_errors(data, quantize_weight(data, 3, form, allocation, None), None).sum()
        for allocation in Allocation
    }
    assert errors[Allocation.KURTOSIS] <= errors[Allocation.EQUAL]
    assert errors[Allocation.ERROR_GAIN] < 0.9 * errors[Allocation.KURTOSIS]


@given(seeds)
@settings(max_examples=20)
def test_row_errors(seed):
    data, inputs = weights(4, 30, seed), weights(6, 30, seed + 1)
    matrix = quantize_weight(data, 3, WeightForm.FREE, Allocation.EQUAL, None)
    lost = data.double().numpy() - matrix.scale.astype(np.float64)[:, None] * matrix.integers()
    np.testing.assert_allclose(
        row_errors(data, matrix, None), np.square(lost).sum(axis=1), rtol=1e-4
    )
    outputs = inputs.double().numpy() @ lost.T
    np.testing.assert_allclose(
        row_errors(data, matrix, inputs), np.square(outputs).sum(axis=0), rtol=1e-3
    )


def test_inputs_decide_which_rows_are_promoted():
    """Row 0 differs from the others only where inputs are zero: its output has no error."""
    data = weights(6, 64, seed=6)
    data[0, :32] = 0
    data[0, 32:] *= 100
    inputs = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    inputs[:, 32:] = 0
    by_weight, by_output = (
        quantize_weight(data, 3, WeightForm.UNIFORM, Allocation.ERROR_GAIN, seen)
        for seen in (None, inputs)
    )
    assert by_weight.plane_count[0] == 4
    assert by_output.plane_count[0] == 2


def test_the_input_is_left_alone():
    data = weights(3, 20)
    before = data.clone()
    quantize_weight(data, 3, WeightForm.RESIDUAL, Allocation.KURTOSIS, None)
    assert torch.equal(data, before)
