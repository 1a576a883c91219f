"""Frechet distance from statistics that were gathered in parts."""

import math

import numpy as np
import pytest
import torch

from mpq_export.evaluation.frechet import (
    FeatureStatistics,
    frechet_distance,
    frechet_distance_of_few,
)


def features(count, seed, width=12):
    """Correlated features of very different sizes."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(width, width)) * np.logspace(-2, 2, width)
    return rng.normal(0.5, 1 + seed / 10, (count, width)) @ mixing


def test_statistics_are_mean_and_covariance():
    rows = features(50, 1)
    statistics = FeatureStatistics.of(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(0))
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(statistics.scatter, statistics.scatter.T)


@pytest.mark.parametrize("cuts", [[1], [25], [0, 10, 10, 37], list(range(1, 50))])
def test_parts_join_to_the_whole(cuts):
    """Whatever their sizes; features lie far from zero, where sums of squares would cancel."""
    rows = features(50, 2) + 1e6
    joined = FeatureStatistics.empty(12)
    for part in np.split(rows, cuts):
        joined = joined.joined(FeatureStatistics.of(part))
    whole = FeatureStatistics.of(rows)
    assert joined.count == 50
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(joined.scatter, whole.scatter, rtol=1e-5, atol=1e-6)


def test_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    one, other = FeatureStatistics.of(features(200, 1)), FeatureStatistics.of(features(300, 4))
    expected = _compute_fid(
        *(torch.from_numpy(v) for s in (one, other) for v in (s.mean, s.covariance))
    )
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(float(expected), rel=1e-6)


def test_distance_of_known_gaussians():
    """Independent features: the squared distances of means and of deviations add up."""
    means, deviations = np.array([[0.0, 1.0], [3.0, 1.0]]), np.array([[1.0, 2.0], [1.0, 5.0]])
    one, other = (
        FeatureStatistics(11, mean, np.diag(deviation**2) * 10)
        for mean, deviation in zip(means, deviations, strict=True)
    )
    assert frechet_distance(one, other) == pytest.approx(9 + 9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)


def test_fewer_vectors_than_features_have_a_distance():
    """Covariances are singular then; rounding must not make the root complex or negative."""
    one, other = FeatureStatistics.of(features(5, 1)), FeatureStatistics.of(features(6, 2))
    assert frechet_distance(one, one) < 1e-6 * np.trace(one.covariance)
    assert frechet_distance(one, other) > 0


@pytest.mark.parametrize(("count", "others"), [(20, 20), (2, 31), (39, 12)])
def test_few_vectors_are_the_same_distance_apart(count, others):
    rng = np.random.default_rng(count)
    one = rng.standard_normal((count, 40)) * np.linspace(0.1, 3, 40)
    other = rng.standard_normal((others, 40)) + 0.3
    expected = frechet_distance(FeatureStatistics.of(one), FeatureStatistics.of(other))
    assert frechet_distance_of_few(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance_of_few(one, one) == pytest.approx(0, abs=1e-9)


def test_few_vectors_beyond_float64_have_no_distance():
    wild = np.array([[1e200] * 9, [-1e200] * 9])
    assert math.isnan(frechet_distance_of_few(wild, wild))
