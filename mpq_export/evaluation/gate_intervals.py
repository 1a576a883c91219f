"""How far a gate's figures would be elsewhere with other noise: intervals by the bootstrap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .estimates import Estimate, estimate, psnr_of
from .feature_blocks import FeatureBlocks
from .frechet import FeatureStatistics, frechet_distance

Interval = tuple[float, float]
_LEAST_BLOCKS = 8


def rise_interval(
    ours: FeatureBlocks, full: FeatureBlocks, data: FeatureStatistics, rise: float
) -> Interval | None:
    """Of the rise of the Frechet distance to data over full precision's, as a share.

    Blocks of images are resampled, the same of both sets; the data is fixed. Resamples hold fewer
    different images, which lies in both distances alike, and what of it remains in their ratio is
    taken out: the interval lies around the rise that was measured.

    Returns:
        95 %; None where there are too few images, or the statistics have no distance.
    """
    present = np.flatnonzero(ours.counts)
    if len(present) < _LEAST_BLOCKS:
        return None

    def figure(rows: NDArray[np.int64]) -> float:
        taken = present[rows]
        theirs = frechet_distance(full.resampled(taken), data)
        return frechet_distance(ours.resampled(taken), data) / max(theirs, 1e-300) - 1

    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = estimate(len(present), figure)
    except np.linalg.LinAlgError:
        return None
    return _around(found, rise)


def psnr_interval(images: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Interval | None:
    """Of the PSNR in dB of pairs of images ``[N, C, H, W]``; None where they are equal or one."""
    errors = np.square(images.astype(np.float64) - reference).mean(axis=(1, 2, 3)) / 255**2
    if len(errors) < 2 or not errors.any():
        return None
    found = psnr_of(errors)
    return found.low, found.high


def _around(found: Estimate, value: float) -> Interval | None:
    """An interval where the figure is that of all images, whose sums round otherwise."""
    if not found.is_finite:
        return None
    return found.low - found.value + value, found.high - found.value + value
