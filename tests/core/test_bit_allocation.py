"""Which rows get how many planes: the mean is exactly N, and the gains are well spent."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.bit_allocation import (
    KURTOSIS_SHARES,
    by_error_gain,
    by_kurtosis,
    by_salience,
    kurtosis,
    total_error,
)

from .strategies import seeds, weight_rows

row_counts = st.integers(1, 41)
bit_widths = st.integers(2, 7)


def keeps_the_mean(planes: np.ndarray, rows: int, bits: int) -> None:
    """Assert that the planes are N - 1, N or N + 1 with a mean of exactly N."""
    assert planes.dtype == np.int64
    assert planes.shape == (rows,)
    assert set(planes.tolist()) <= {bits - 1, bits, bits + 1}
    assert planes.sum() == rows * bits


def falling_errors(rng: np.random.Generator, rows: int, convex: bool) -> np.ndarray:
    """Errors ``[3, O]`` that fall with every plane; convex if the second gains no more."""
    gains = rng.exponential(size=(2, rows)) * rng.exponential(size=rows) ** 3
    if convex:
        gains = -np.sort(-gains, axis=0)
    return np.cumsum(np.stack([gains.sum(axis=0) + 0.1, -gains[0], -gains[1]]), axis=0)


# --- the mean ---------------------------------------------------------------------------------


@given(row_counts, bit_widths, st.floats(0, 1), seeds)
def test_salience_keeps_the_mean(rows, bits, share, seed):
    salience = np.random.default_rng(seed).integers(0, 5, rows).astype(np.float64)
    planes = by_salience(salience, bits, share)
    keeps_the_mean(planes, rows, bits)
    promoted, demoted = salience[planes > bits], salience[planes < bits]
    others = salience[planes == bits]
    for low, high in ((demoted, others), (others, promoted), (demoted, promoted)):
        assert max(low, default=-1) <= min(high, default=9)
    assert len(promoted) == min(round(share * rows), rows // 2)


@given(row_counts, bit_widths, st.integers(1, 20), seeds)
def test_kurtosis_keeps_the_mean(rows, bits, columns, seed):
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(3, (rows, columns)).astype(np.float32)
    keeps_the_mean(by_kurtosis(weights, rng.random((3, rows)), bits), rows, bits)


@given(row_counts, bit_widths, st.booleans(), seeds)
def test_error_gain_keeps_the_mean(rows, bits, convex, seed):
    rng = np.random.default_rng(seed)
    keeps_the_mean(by_error_gain(falling_errors(rng, rows, convex), bits), rows, bits)
    # Measured errors may also rise, or tie.
    keeps_the_mean(by_error_gain(rng.integers(0, 3, (3, rows)).astype(float), bits), rows, bits)


@pytest.mark.parametrize("bits", [2, 7])
def test_one_row_gets_n(bits):
    assert by_error_gain(np.array([[3.0], [2.0], [0.0]]), bits).tolist() == [bits]
    assert by_kurtosis(np.ones((1, 5), np.float32), np.ones((3, 1)), bits).tolist() == [bits]
    assert by_salience(np.ones(1), bits, 0.5).tolist() == [bits]


# --- error gain -------------------------------------------------------------------------------


@given(st.integers(1, 6), seeds)
def test_error_gain_is_optimal_on_convex_errors(rows, seed):
    errors = falling_errors(np.random.default_rng(seed), rows, convex=True)
    choices = [c for c in product((2, 3, 4), repeat=rows) if sum(c) == 3 * rows]
    least = min(total_error(errors, np.array(choice), 3) for choice in choices)
    assert total_error(errors, by_error_gain(errors, 3), 3) == pytest.approx(least, rel=1e-12)


@given(row_counts, seeds)
def test_error_gain_is_no_worse_than_equal_planes(rows, seed):
    """On convex errors; elsewhere a row may get only the lesser of its two gains."""
    errors = falling_errors(np.random.default_rng(seed), rows, convex=True)
    planes = by_error_gain(errors, 4)
    assert total_error(errors, planes, 4) <= errors[1].sum() * (1 + 1e-12)


def test_error_gain_counts_two_planes_together_where_the_second_gains_more():
    """Row 1 gains 6 and 1, row 0 gains 5 and 0; row 2 loses 2.5 by its first plane."""
    errors = np.array([[10.0, 5.0, 5.0], [10.0, 4.0, 3.0], [1.0, 3.5, 2.5]])
    assert by_error_gain(errors, 3).tolist() == [4, 2, 3]


def test_error_gain_of_equal_rows_stays_even():
    """Where every row gains the same and less by its second plane, none is preferred."""
    errors = np.repeat([[4.0], [1.0], [0.5]], 7, axis=1)
    assert by_error_gain(errors, 3).tolist() == [3] * 7


def test_total_error_picks_each_rows_own():
    errors = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [64.0, 128.0, 256.0]])
    assert total_error(errors, np.array([4, 5, 6]), 5) == 1 + 16 + 256


# --- kurtosis ---------------------------------------------------------------------------------


@given(st.integers(2, 200), seeds)
def test_kurtosis_is_scipys_with_the_unbiased_deviation(columns, seed):
    weights = np.random.default_rng(seed).standard_t(4, (5, columns)).astype(np.float32)
    plain = scipy.stats.kurtosis(weights.astype(np.float64), axis=1, fisher=False)
    expected = plain * ((columns - 1) / columns) ** 2
    np.testing.assert_allclose(kurtosis(weights), expected, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 3e38, 1e-44])
@pytest.mark.parametrize("columns", [1, 3, 1152])
def test_constant_rows_have_kurtosis_zero(value, columns):
    assert kurtosis(np.full((2, columns), value, np.float32)).tolist() == [0, 0]


@given(weight_rows())
def test_kurtosis_of_awkward_rows_is_a_number(weights):
    result = kurtosis(weights.astype(np.float32))
    assert np.all(np.isfinite(result))
    # No distribution of n values has more than n**2 - 3 n + 3 over n - 1.
    assert np.all(result >= 0)
    assert np.all(result <= weights.shape[1] + 1)


def test_kurtosis_allocation_is_the_best_of_its_shares():
    rng = np.random.default_rng(8)
    weights = rng.standard_t(3, (30, 200)).astype(np.float32)
    errors = falling_errors(rng, 30, convex=True)
    chosen = by_kurtosis(weights, errors, 3)
    totals = [
        total_error(errors, by_salience(kurtosis(weights), 3, share), 3)
        for share in KURTOSIS_SHARES
    ]
    assert total_error(errors, chosen, 3) == min(totals)
    assert KURTOSIS_SHARES == (0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_kurtosis_promotes_heavy_tails_where_that_helps():
    rng = np.random.default_rng(9)
    heavy = np.arange(20) % 5 == 0
    weights = np.where(
        heavy[:, None], rng.standard_t(2.5, (20, 400)), rng.uniform(-1, 1, (20, 400))
    ).astype(np.float32)
    gain = np.where(heavy, 10.0, 1.0)
    errors = np.stack([3 * gain, gain, 0 * gain])
    planes = by_kurtosis(weights, errors, 4)
    assert set(planes[heavy].tolist()) == {5}
    assert (planes[~heavy] == 3).sum() == heavy.sum()
