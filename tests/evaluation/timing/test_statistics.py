"""Medians, spreads, and ratios within rounds."""

import pytest

from mpq_export.evaluation.timing.statistics import ratio, spread_of


def test_the_spread_holds_percentiles():
    spread = spread_of([float(value) for value in range(11)])
    assert (spread.median, spread.p10, spread.p90, spread.rounds) == (5, 1, 9, 11)


def test_a_ratio_is_taken_round_by_round():
    # The machine was twice as slow in every second round, for both.
    assert ratio([3, 6, 3, 6], [1, 2, 1, 2]) == pytest.approx(3)


def test_one_disturbed_round_moves_no_ratio():
    assert ratio([2, 2, 200], [1, 1, 1]) == pytest.approx(2)
