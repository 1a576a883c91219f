"""Figures with 95 % confidence intervals by the bootstrap (Efron 1979), and what they tell apart.

Two figures whose intervals overlap are not called different.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from .frechet import FeatureStatistics, frechet_distance, frechet_distance_of_few

RESAMPLES = 200
_SEED = 0
_ENDS = (2.5, 97.5)

Rows = np.ndarray
"""Indices of a resample, int64 ``[N]``."""


class Estimate(BaseModel):
    """A figure and its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    @property
    def is_finite(self) -> bool:
        """Whether it is a number at all."""
        return bool(np.isfinite([self.value, self.low, self.high]).all())

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two are not told apart."""
        return self.low <= other.high and other.low <= self.high


def estimate(
    count: int,
    figure: Callable[[Rows], float],
    least: float = -np.inf,
    most: float = np.inf,
) -> Estimate:
    """A figure of ``count`` observations; ``figure`` takes the indices of those that it uses.

    All figures of as many observations see the same resamples, so rows of one run are paired. The
    resampled figures are moved so that their median is the figure itself: distances of resampled
    sets are larger than those of the sets. The interval is cut where no such figure lies, below
    ``least`` and above ``most``.
    """
    rng = np.random.default_rng(_SEED)
    value = figure(np.arange(count))
    again = np.array([figure(rng.integers(count, size=count)) for _ in range(RESAMPLES)])
    finite = again[np.isfinite(again)]
    if not np.isfinite(value) or not len(finite):
        return Estimate(value=value, low=value, high=value)
    low, high = np.clip(np.percentile(finite, _ENDS) - np.median(finite) + value, least, most)
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def median_of(values: Sequence[float]) -> Estimate:
    """Of times."""
    array = np.asarray(values, np.float64)
    return estimate(len(array), lambda rows: float(np.median(array[rows])), least=0)


def mean_of(values: np.ndarray, least: float = -np.inf, most: float = np.inf) -> Estimate:
    """Of one number per image, such as whether it is as asked, between two ends."""
    array = np.asarray(values, np.float64)
    return estimate(len(array), lambda rows: float(array[rows].mean()), least, most)


def psnr_of(squared_errors: np.ndarray) -> Estimate:
    """Peak signal-to-noise ratio in dB over a set of images in [0, 1], from the mean squared error
    of each; equal sets have 200 dB here."""
    errors = np.asarray(squared_errors, np.float64)

    def decibels(rows: Rows) -> float:
        return -10 * float(np.log10(max(errors[rows].mean(), 1e-20)))

    return estimate(len(errors), decibels)


def frechet_of(features: np.ndarray, reference: np.ndarray, paired: bool) -> Estimate:
    """Frechet distance of features ``[N, F]``; ``paired`` sets are of the same noise, row by row,
    and are resampled together, where the reference is otherwise fixed."""
    if len(features) < features.shape[1] and len(reference) < features.shape[1]:

        def distance_of_few(rows: Rows) -> float:
            other = reference[rows] if paired else reference
            return frechet_distance_of_few(features[rows], other)

        return estimate(len(features), distance_of_few, least=0)
    fixed = FeatureStatistics.of(reference)

    def distance(rows: Rows) -> float:
        other = FeatureStatistics.of(reference[rows]) if paired else fixed
        return frechet_distance(FeatureStatistics.of(features[rows]), other)

    return estimate(len(features), distance, least=0)
