"""Frechet distance from statistics of features that are gathered in parts; needs numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of feature vectors, in a form in which parts can be joined.

    Attributes:
        count: number of vectors.
        mean: float64 ``[F]``.
        scatter: float64 ``[F, F]``, the sum of ``(x - mean) (x - mean)^T``.
    """

    count: int
    mean: Float64
    scatter: Float64

    @classmethod
    def empty(cls, width: int) -> FeatureStatistics:
        """Of no vectors of ``width`` features; the beginning of a sum."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> FeatureStatistics:
        """Of the rows of ``[N, F]``."""
        rows = np.asarray(features, np.float64)
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean = rows.mean(0)
        centred = rows - mean
        scatter = centred.T @ centred
        return cls(len(rows), mean, (scatter + scatter.T) / 2)

    @property
    def covariance(self) -> Float64:
        """The unbiased covariance, float64 ``[F, F]``; of at least two vectors."""
        return self.scatter / (self.count - 1)

    def joined(self, other: FeatureStatistics) -> FeatureStatistics:
        """Statistics of both sets of vectors (Chan, Golub and LeVeque 1979, equations 1.5)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(step, step) * (self.count * other.count / count)
        return FeatureStatistics(count, self.mean + step * (other.count / count), scatter)


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al., arXiv 1706.08500, equation 6).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The trace of the root is taken of the symmetric
    ``C1^(1/2) C2 C1^(1/2)``, which has the same eigenvalues and none that is negative but by
    rounding. It falls with the number of vectors: compare distances of sets of one size. Both sets
    have two vectors at least; NaN where their covariances leave the range of float64.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = root @ other.covariance @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0)).sum()
    apart = float(np.square(one.mean - other.mean).sum())
    traces = float(np.trace(one.covariance) + np.trace(other.covariance))
    total = apart + traces - 2 * float(shared)
    return math.nan if math.isnan(total) else max(0.0, total)


def frechet_distance_of_few(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """:func:`frechet_distance` of the rows of two sets ``[N, F]``, ``[M, F]`` that are fewer than
    their features: with centred rows A and B the eigenvalues of ``C1 C2`` are the squared singular
    values of ``A B^T``, which is small, over ``(N - 1) (M - 1)``."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    means = first.mean(0), second.mean(0)
    first = (first - means[0]) / math.sqrt(len(first) - 1)
    second = (second - means[1]) / math.sqrt(len(second) - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        crossed = first @ second.T
    if not np.isfinite(crossed).all():
        return math.nan
    shared = np.linalg.svd(crossed, compute_uv=False).sum()
    apart = float(np.square(means[0] - means[1]).sum())
    traces = float(np.square(first).sum() + np.square(second).sum())
    return max(0.0, apart + traces - 2 * float(shared))
