"""The weight half of the contract: what rows mean, snapping, nearest codes."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from golden.reader import SnapCase, snap_cases
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.planes import (
    LIMIT,
    ContractError,
    SnappedLevels,
    check,
    integers,
    level_table,
    nearest_codes,
    pack,
    quantize_rows,
    snap_levels,
)

from .matrices import same_matrix
from .strategies import plane_matrices, real_levels, seeds, snapped_levels, weight_rows

FLOAT32 = np.finfo(np.float32)


# --- the meaning of a row ---------------------------------------------------------------------


@given(plane_matrices(max_columns=40))
def test_integers_are_offset_plus_steps_of_set_bits(matrix):
    for row, column in product(range(len(matrix.offset)), range(matrix.codes.shape[1])):
        code = int(matrix.codes[row, column])
        expected = int(matrix.offset[row]) + sum(
            int(step) for plane, step in enumerate(matrix.steps[row]) if code >> plane & 1
        )
        assert matrix.integers()[row, column] == expected


@given(plane_matrices(max_columns=40), seeds)
def test_planes_may_be_added_in_int8_in_any_order(matrix, seed):
    bits = [(matrix.codes >> p) & 1 for p in range(matrix.steps.shape[1])]
    total = np.repeat(matrix.offset[:, None], matrix.codes.shape[1], axis=1)
    for plane in np.random.default_rng(seed).permutation(len(bits)):
        widened = total.astype(np.int16) + matrix.steps[:, plane, None] * bits[plane]
        total = widened.astype(np.int8)
        np.testing.assert_array_equal(total, widened)
    np.testing.assert_array_equal(total, matrix.integers())


@given(plane_matrices(max_columns=8))
def test_level_table_is_every_code(matrix):
    table = level_table(matrix.offset, matrix.steps)
    every_code = np.arange(table.shape[1], dtype=np.uint8)
    codes = np.repeat(every_code[None], len(matrix.offset), axis=0)
    np.testing.assert_array_equal(table, integers(matrix.offset, matrix.steps, codes))
    assert np.abs(table).max() <= LIMIT


@given(plane_matrices(max_columns=8))
def test_weights_are_one_float32_product(matrix):
    with np.errstate(over="ignore"):
        exact = matrix.scale.astype(np.float64)[:, None] * matrix.integers()
        np.testing.assert_array_equal(matrix.weights(), exact.astype(np.float32))


# --- snapping ---------------------------------------------------------------------------------


def snap_row_plainly(offset: float, steps: list[float]) -> tuple[float, int, list[int]] | None:
    """The contract's snapping of one row in Python numbers; None where it has no usable scale."""
    levels = [offset, offset + sum(steps)]
    reach = max(*map(abs, levels), *steps)
    if not math.isfinite(reach) or reach / LIMIT < float(FLOAT32.tiny):
        return None
    scale = reach / LIMIT
    while True:
        whole_offset, whole = round(offset / scale), [round(step / scale) for step in steps]
        if whole_offset >= -LIMIT and whole_offset + sum(whole) <= LIMIT and max(whole) <= LIMIT:
            return scale, whole_offset, whole
        scale *= 1.002


@given(st.data(), st.integers(1, 8))
def test_snapping_is_the_contracts(data, planes):
    weights = data.draw(weight_rows())
    offset, steps = data.draw(real_levels(weights, planes))
    with np.errstate(all="ignore"):
        snapped = snap_levels(offset, steps)
    for row in range(len(weights)):
        got = snapped.scale[row], int(snapped.offset[row]), snapped.steps[row].tolist()
        expected = snap_row_plainly(float(offset[row]), steps[row].tolist())
        if expected is None:
            assert got == (0.0, 0, [0] * planes)
        else:
            # Sums of real steps may be added in another order.
            assert got[0] == pytest.approx(expected[0], rel=1e-14)
            assert got[1:] == expected[1:]


@given(st.data(), st.integers(1, 8))
def test_every_quantised_row_keeps_the_contract(data, planes):
    weights = data.draw(weight_rows())
    with np.errstate(all="ignore"):
        matrix = quantize_rows(weights, snap_levels(*data.draw(real_levels(weights, planes))))
    check(pack(matrix))
    assert np.abs(level_table(matrix.offset, matrix.steps)).max() <= LIMIT
    assert np.all(matrix.plane_count == planes)


@pytest.mark.parametrize("case", snap_cases(), ids=str)
def test_golden_snapping(case: SnapCase):
    levels = snap_levels(case.offset, case.steps)
    for name in ("scale", "offset", "steps"):
        np.testing.assert_array_equal(getattr(levels, name), getattr(case.levels, name))
        assert getattr(levels, name).dtype == getattr(case.levels, name).dtype
    same_matrix(quantize_rows(case.weights, case.levels), case.rows)


@pytest.mark.parametrize("planes", range(1, 8))
def test_a_uniform_grid_that_fits_int8_is_not_rounded(planes):
    """Whole levels with reach 127 are their own snapping."""
    steps = 2.0 ** np.arange(planes)[None]
    offset = np.array([127 - steps.sum()])
    snapped = snap_levels(offset * 0.25, steps * 0.25)
    assert snapped.scale[0] == 0.25
    assert snapped.offset[0] == offset[0]
    np.testing.assert_array_equal(snapped.steps, steps)


def test_negative_real_steps_are_refused():
    with pytest.raises(ContractError, match="non-negative"):
        snap_levels(np.zeros(2), np.array([[1.0, 2.0], [1.0, -1e-9]]))


def test_inputs_are_left_alone():
    weights = np.linspace(-1, 1, 20).reshape(2, 10)
    offset, steps = np.array([-1.0, -1.0]), np.array([[0.5, 1.5], [31.5, 30.0]])
    before = [array.copy() for array in (weights, offset, steps)]
    quantize_rows(weights, snap_levels(offset, steps))
    for array, copy in zip((weights, offset, steps), before, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- nearest codes ----------------------------------------------------------------------------


def nearest_plainly(weight: float, scale: float, table: list[int]) -> int:
    """Exact: least distance, then lower level, then smaller code."""
    real = Fraction(weight)
    ranked = [
        (abs(real - Fraction(scale) * level), level, code) for code, level in enumerate(table)
    ]
    return min(ranked)[2]


@given(st.data(), st.integers(1, 6))
def test_nearest_codes_are_nearest_ties_low_equal_levels_smallest(data, planes):
    """At power-of-two scales every border is exact, and many weights lie on one."""
    rows = data.draw(st.integers(1, 3))
    levels = data.draw(snapped_levels(rows, planes))
    rng = np.random.default_rng(data.draw(seeds))
    halves = rng.integers(-2 * 140, 2 * 140, (rows, 12)) / 2 * levels.scale[:, None]
    anywhere = rng.uniform(-140, 140, (rows, 6)) * levels.scale[:, None]
    weights = np.concatenate([halves, anywhere], axis=1)
    codes = nearest_codes(weights, levels)
    table = level_table(levels.offset, levels.steps)
    for row, column in np.ndindex(weights.shape):
        expected = nearest_plainly(weights[row, column], levels.scale[row], table[row].tolist())
        assert codes[row, column] == expected


@given(st.data(), st.integers(1, 8))
def test_nearest_codes_at_any_scale(data, planes):
    """No level is nearer by more than rounding of the border."""
    weights = data.draw(weight_rows())
    with np.errstate(all="ignore"):
        levels = snap_levels(*data.draw(real_levels(weights, planes)))
    codes = nearest_codes(weights, levels)
    real = levels.scale[:, None] * level_table(levels.offset, levels.steps)
    distance = np.abs(weights - np.take_along_axis(real, codes.astype(np.intp), axis=1))
    least = np.abs(weights[:, :, None] - real[:, None, :]).min(axis=2)
    slack = 1e-14 * np.maximum(np.abs(weights), np.abs(real).max(axis=1, keepdims=True))
    assert np.all(distance <= least + slack)


def test_all_256_levels_can_be_reached():
    """Code 255 of eight planes is the 256th level: positions must not overflow a byte."""
    steps = np.array([[1, 2, 4, 8, 16, 32, 64, 127]], np.int8)
    levels = SnappedLevels(np.ones(1), np.array([-127], np.int8), steps)
    weights = np.arange(-130.0, 131)[None]
    matrix = quantize_rows(weights, levels)
    np.testing.assert_array_equal(matrix.integers()[0], np.clip(weights[0], -127, 127))
    assert matrix.codes.max() == 255


# --- scale refit and degenerate rows ----------------------------------------------------------


@given(st.data(), st.integers(1, 8))
def test_scale_is_refitted_once_by_least_squares(data, planes):
    weights = data.draw(weight_rows())
    with np.errstate(all="ignore"):
        levels = snap_levels(*data.draw(real_levels(weights, planes)))
    matrix = quantize_rows(weights, levels)
    codes = nearest_codes(weights, levels)
    grid = integers(levels.offset, levels.steps, codes)
    for row, values in enumerate(weights):
        if is_fitted_by_one_level(values, levels.scale[row], grid[row]):
            mean = np.float32(np.mean(values))
            usable = abs(mean) >= FLOAT32.tiny
            assert matrix.scale[row] == (abs(mean) if usable else 1)
            assert matrix.offset[row] == (np.sign(mean) if usable else 0)
            assert not matrix.steps[row].any()
            assert not matrix.codes[row].any()
        else:
            exact = least_squares_scale(values, grid[row])
            assert matrix.scale[row] == pytest.approx(float(exact), rel=1.3e-7)
            np.testing.assert_array_equal(matrix.codes[row], codes[row])
            np.testing.assert_array_equal(matrix.steps[row], levels.steps[row])
            assert matrix.offset[row] == levels.offset[row]


def least_squares_scale(values: np.ndarray, grid: np.ndarray) -> Fraction:
    """Exact ``<w, L> / <L, L>``; 0 for no energy."""
    match = sum(Fraction(float(w)) * int(level) for w, level in zip(values, grid, strict=True))
    energy = sum(int(level) ** 2 for level in grid)
    return Fraction(match, energy) if energy else Fraction(0)


def is_fitted_by_one_level(values: np.ndarray, scale: float, grid: np.ndarray) -> bool:
    """A row that is constant, or whose scale would not be a normal positive float32."""
    refitted = float(least_squares_scale(values, grid))
    ordinary = refitted >= FLOAT32.tiny and refitted <= FLOAT32.max
    return scale == 0 or values.max() == values.min() or not ordinary


@pytest.mark.parametrize("planes", [1, 3, 8])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 3.4e38, -3.4e38, float(FLOAT32.tiny)])
@pytest.mark.parametrize("columns", [1, 33])
def test_constant_row_is_exact(planes, value, columns):
    value = float(np.float32(value))
    weights = np.full((1, columns), value)
    matrix = quantize_rows(weights, snap_levels(np.array([-1.0]), np.ones((1, planes))))
    np.testing.assert_array_equal(matrix.weights(), weights)
    assert not matrix.codes.any()
    if value == 0:
        assert (matrix.offset[0], matrix.scale[0]) == (0, 1)


def test_subnormal_row_becomes_zero():
    weights = np.array([[1e-40, -1e-40, 3e-41]]).astype(np.float32).astype(np.float64)
    matrix = quantize_rows(weights, snap_levels(weights.min(axis=1), np.full((1, 2), 5e-41)))
    assert not matrix.integers().any()
    assert matrix.scale[0] == 1


@given(st.data(), st.integers(1, 5))
def test_negated_levels_mirror(data, planes):
    """Complementing every plane (c0' = -(c0 + sum d)) represents exactly the negated integers."""
    levels = data.draw(snapped_levels(1, planes))
    table = level_table(levels.offset, levels.steps)[0]
    mirrored = level_table(
        (-(levels.offset.astype(int) + levels.steps.sum(axis=1, dtype=int))).astype(np.int8),
        levels.steps,
    )[0]
    np.testing.assert_array_equal(mirrored, -table[::-1])
