"""Statistics of features in blocks, from which a set of images can be resampled without them.

An image's number decides its block, so two sets of the same noise have the same images in each, and
a resample takes the same blocks of both: what the noise does to both alike is in neither's favour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .frechet import FeatureStatistics, Float64

BLOCKS = 32
MOST_FEATURES = 128
"""Blocks of wider features would be larger than what they are statistics of."""


@dataclass(frozen=True)
class FeatureBlocks:
    """What each block's statistics are; block k is of the images k, k + 32, k + 64 and so on.

    Attributes:
        counts: int64 ``[32]``.
        means: float64 ``[32, F]``; zeros where a block has no image.
        scatters: float64 ``[32, F, F]``, as of :class:`FeatureStatistics`.
    """

    counts: NDArray[np.int64]
    means: Float64
    scatters: Float64

    @classmethod
    def of(cls, features: NDArray[np.floating], numbers: range) -> FeatureBlocks | None:
        """Of the rows of ``[N, F]``, images of these numbers; None where features are too wide."""
        if features.shape[1] > MOST_FEATURES:
            return None
        block = np.asarray(numbers, np.int64) % BLOCKS
        return cls._of(FeatureStatistics.of(features[block == one]) for one in range(BLOCKS))

    @classmethod
    def _of(cls, parts: Iterable[FeatureStatistics]) -> FeatureBlocks:
        every = list(parts)
        return cls(
            np.array([part.count for part in every], np.int64),
            np.stack([part.mean for part in every]),
            np.stack([part.scatter for part in every]),
        )

    def joined(self, other: FeatureBlocks) -> FeatureBlocks:
        """Of both sets of images."""
        return self._of(
            mine.joined(theirs) for mine, theirs in zip(self._parts(), other._parts(), strict=True)
        )

    def resampled(self, rows: NDArray[np.integer]) -> FeatureStatistics:
        """Of all images of these blocks, each as often as it is named (Chan, Golub and LeVeque
        1979, equations 1.5, of many parts at once)."""
        counts, means = self.counts[rows], self.means[rows]
        total = int(counts.sum())
        mean = counts @ means / total
        apart = means - mean
        scatter = self.scatters[rows].sum(0) + (apart * counts[:, None]).T @ apart
        return FeatureStatistics(total, mean, (scatter + scatter.T) / 2)

    def _parts(self) -> Iterable[FeatureStatistics]:
        pairs = zip(self.counts, self.means, self.scatters, strict=True)
        return (FeatureStatistics(int(count), mean, scatter) for count, mean, scatter in pairs)
