"""Intervals by the bootstrap."""

import numpy as np
import pytest

from mpq_export.evaluation.estimates import (
    Estimate,
    estimate,
    frechet_of,
    mean_of,
    median_of,
    psnr_of,
)
from mpq_export.evaluation.frechet import FeatureStatistics, frechet_distance


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean_of(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.2)
    assert found.low < found.value < found.high


def test_what_never_varies_has_no_interval():
    assert median_of([5.0, 5.0, 5.0]) == Estimate(value=5, low=5, high=5)
    assert psnr_of(np.full(8, 0.01)).value == pytest.approx(20)


def test_intervals_that_touch_overlap():
    one = Estimate(value=1, low=0.5, high=2)
    assert one.overlaps(Estimate(value=3, low=2, high=4))
    assert not one.overlaps(Estimate(value=3, low=2.1, high=4))


def test_an_interval_of_frechet_distances_lies_around_the_distance():
    rng = np.random.default_rng(2)
    features, reference = rng.normal(0, 1, (300, 8)), rng.normal(0.3, 1, (300, 8))
    found = frechet_of(features, reference, paired=False)
    assert found.low < found.value < found.high
    sets = (FeatureStatistics.of(features), FeatureStatistics.of(reference))
    assert found.value == pytest.approx(frechet_distance(*sets))


def test_paired_sets_that_are_alike_are_nearer_than_those_of_other_noise():
    """Resampled together, equal sets stay at distance 0."""
    features = np.random.default_rng(3).normal(0, 1, (200, 4))
    paired = frechet_of(features, features.copy(), paired=True)
    assert (paired.low, paired.high) == pytest.approx((0, 0), abs=1e-9)
    assert frechet_of(features, features.copy(), paired=False).high > 1e-3


def test_what_is_not_finite_is_said_as_it_is():
    assert np.isnan(mean_of(np.array([np.nan, 1.0])).value)


def test_intervals_end_where_figures_do():
    def seen(rows):
        """Resampled some 0.63, and so moved to lie around 1."""
        return len(set(rows)) / 50

    assert estimate(50, seen).high > 1
    assert estimate(50, seen, 0, 1).high == 1
    assert estimate(50, lambda rows: seen(rows) - 1, 0).low == 0
    rng = np.random.default_rng(5)
    near = frechet_of(rng.normal(0, 1, (40, 8)), rng.normal(0, 1, (4000, 8)), paired=False)
    assert 0 <= near.low <= near.value
