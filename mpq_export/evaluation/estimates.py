"""Figures with 95 % confidence intervals by the bootstrap (Efron 1979), and what they tell apart.

Frechet distances over wide features, of which one takes seconds, have theirs by the jackknife. Two
figures whose intervals overlap are not called different.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from .frechet import FeatureStatistics, frechet_distance, frechet_distance_of_few

RESAMPLES = 200
GROUPS = 32
"""That are left out in turn by the jackknife."""
MOST_RESAMPLED = 512
"""Features over which a distance is resampled; over more it takes too long for that."""
_SEED = 0
_ENDS = (2.5, 97.5)
_DEVIATIONS = 1.96
"""Half the width of 95 % of the normal distribution."""

Rows = np.ndarray
"""Indices of a resample, int64 ``[N]``."""


class Estimate(BaseModel):
    """A figure and its interval, which is the figure alone where it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    has_interval: bool = True

    @property
    def is_finite(self) -> bool:
        """Whether it is a number at all."""
        return bool(np.isfinite([self.value, self.low, self.high]).all())

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two are not told apart; without an interval nothing is."""
        if not (self.has_interval and other.has_interval):
            return True
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


def jackknife(count: int, figure: Callable[[Rows], float], least: float = -np.inf) -> Estimate:
    """As :func:`estimate`, with :data:`GROUPS` figures instead of hundreds: the delete-a-group
    jackknife (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, section 2).

    Row k is of group k modulo :data:`GROUPS`; ``count`` is at least two.
    """
    value, rows = figure(np.arange(count)), np.arange(count)
    groups = min(GROUPS, count)
    without = np.array([figure(rows[rows % groups != group]) for group in range(groups)])
    deviation = float(np.sqrt((groups - 1) * np.square(without - without.mean()).mean()))
    if not np.isfinite([value, deviation]).all():
        return Estimate(value=value, low=value, high=value)
    apart = _DEVIATIONS * deviation
    return Estimate(value=value, low=min(max(value - apart, least), value), high=value + apart)


def frechet_evaluations(count: int, width: int) -> int:
    """How many distances :func:`frechet_of` computes of so many images and features."""
    if count <= width:
        return 1
    return 1 + (GROUPS if width > MOST_RESAMPLED else RESAMPLES)


def frechet_of(
    features: np.ndarray,
    reference: np.ndarray,
    paired: bool,
    on_distance: Callable[[], None] = lambda: None,
) -> Estimate:
    """Frechet distance of features ``[N, F]``; ``paired`` sets are of the same noise, row by row,
    and are resampled together, where the reference is otherwise fixed.

    Of no more images than features there is no interval: the covariance is not of full rank, and
    resamples, which hold fewer different images, are of a still smaller one. ``on_distance`` is
    called after each of :func:`frechet_evaluations`.
    """
    count, width = features.shape
    of_few = count < width and len(reference) < width
    fixed = None if paired or of_few else FeatureStatistics.of(reference)

    def distance(rows: Rows) -> float:
        other = reference[rows] if paired else reference
        if of_few:
            found = frechet_distance_of_few(features[rows], other)
        else:
            statistics = FeatureStatistics.of(other) if fixed is None else fixed
            found = frechet_distance(FeatureStatistics.of(features[rows]), statistics)
        on_distance()
        return found

    if count <= width:
        value = distance(np.arange(count))
        return Estimate(value=value, low=value, high=value, has_interval=False)
    if width > MOST_RESAMPLED:
        return jackknife(count, distance, least=0)
    return estimate(count, distance, least=0)
