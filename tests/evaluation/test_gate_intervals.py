"""Intervals of a gate's figures, against sets whose figures are known."""

import numpy as np
import pytest

from mpq_export.evaluation.feature_blocks import FeatureBlocks
from mpq_export.evaluation.frechet import FeatureStatistics, frechet_distance
from mpq_export.evaluation.gate_intervals import psnr_interval, rise_interval

DATA = FeatureStatistics.of(np.random.default_rng(9).normal(size=(4000, 4)))


def drawn(seed, count=400, noise=0.0):
    """Features of a bundle that differs by noise from full precision, and of that, which lies
    apart from the data."""
    rng = np.random.default_rng(seed)
    full = rng.normal(size=(count, 4)) + 0.5
    return full + noise * rng.normal(size=full.shape) + 0.1 * noise, full


def interval(ours, full):
    blocks = [FeatureBlocks.of(one, range(len(one))) for one in (ours, full)]
    pair = [frechet_distance(FeatureStatistics.of(one), DATA) for one in (ours, full)]
    rise = pair[0] / pair[1] - 1
    return rise, rise_interval(*blocks, DATA, rise)


def test_equal_sets_have_no_rise_whatever_is_resampled():
    rise, (low, high) = interval(*drawn(0))
    assert (rise, low, high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_sets_of_the_same_noise_are_told_apart_sooner_than_others():
    ours, full = drawn(1, noise=0.2)
    _, paired = interval(ours, full)
    _, apart = interval(drawn(2, noise=0.2)[0], full)
    assert paired[1] - paired[0] < 0.5 * (apart[1] - apart[0])


def test_most_intervals_hold_the_rise_of_many_images():
    true, _ = interval(*drawn(100, count=40_000, noise=0.3))
    held = 0
    for seed in range(20):
        rise, (low, high) = interval(*drawn(seed, noise=0.3))
        assert low <= rise <= high
        held += low <= true <= high
    assert held >= 15


def test_few_images_have_no_interval():
    assert interval(*drawn(0, count=7, noise=0.1))[1] is None


def test_psnr_is_resampled_over_pairs():
    rng = np.random.default_rng(0)
    images = rng.integers(50, 200, (64, 1, 8, 8)).astype(np.uint8)
    wrong = (images + rng.integers(0, 9, images.shape)).astype(np.uint8)
    low, high = psnr_interval(wrong, images)
    error = np.square(wrong.astype(float) - images).mean() / 255**2
    assert low < -10 * np.log10(error) < high < low + 2
    assert psnr_interval(images, images) is None
    assert psnr_interval(wrong[:1], images[:1]) is None
