"""Intervals by the bootstrap."""

import numpy as np
import pytest

from mpq_export.evaluation import estimates
from mpq_export.evaluation.estimates import (
    Estimate,
    estimate,
    frechet_evaluations,
    frechet_of,
    jackknife,
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


def test_of_fewer_images_than_features_there_is_a_distance_and_no_interval():
    rng = np.random.default_rng(6)
    features = rng.normal(0, 1, (12, 16))
    for reference, paired in (
        (rng.normal(0, 1, (12, 16)), True),
        (rng.normal(0, 1, (99, 16)), False),
    ):
        found = frechet_of(features, reference, paired)
        sets = (FeatureStatistics.of(features), FeatureStatistics.of(reference))
        assert found.value == pytest.approx(frechet_distance(*sets))
        assert not found.has_interval
        far = Estimate(value=1e6, low=1e6, high=1e6)
        assert found.overlaps(far)
        assert far.overlaps(found)
    assert frechet_of(rng.normal(0, 1, (17, 16)), reference, False).has_interval


def test_the_jackknife_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3, 2, 3200)
    found = jackknife(3200, lambda rows: float(values[rows].mean()))
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 3200**0.5, rel=0.3)
    assert jackknife(64, lambda rows: len(rows) / 64 - 1, least=0).low == 0
    assert np.isnan(jackknife(64, lambda rows: np.nan).value)


def test_both_intervals_of_a_distance_are_alike(monkeypatch):
    rng = np.random.default_rng(7)
    features, reference = rng.normal(0, 1, (960, 6)), rng.normal(0.3, 1, (960, 6))
    by_bootstrap = frechet_of(features, reference, paired=False)
    monkeypatch.setattr(estimates, "MOST_RESAMPLED", 5)
    by_jackknife = frechet_of(features, reference, paired=False)
    assert by_jackknife.value == by_bootstrap.value
    widths = [found.high - found.low for found in (by_jackknife, by_bootstrap)]
    assert widths[0] == pytest.approx(widths[1], rel=0.4)


def test_wide_features_take_few_distances_and_each_is_told(monkeypatch):
    rng = np.random.default_rng(8)
    for most, images, count in ((512, 40, 201), (7, 40, 33), (512, 8, 1)):
        monkeypatch.setattr(estimates, "MOST_RESAMPLED", most)
        features, told = rng.normal(0, 1, (images, 8)), []
        frechet_of(features, features + 1, True, lambda told=told: told.append(1))
        assert len(told) == frechet_evaluations(*features.shape) == count
    monkeypatch.undo()
    assert frechet_evaluations(5000, 2048) == 33
