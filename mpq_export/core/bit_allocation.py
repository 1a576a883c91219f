"""Which rows of a layer get how many bit planes; the mean is exactly N.

Two rules: salience by kurtosis (MPQ-DM, arXiv 2412.11549, section "outlier-driven mixed
quantization") and error gain, which gives each plane to the row whose error falls most.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

KURTOSIS_SHARES = tuple(tenth / 10 for tenth in range(6))
"""Shares of rows that may be promoted (and demoted): MPQ-DM's search, 0 to 1/2 in tenths."""

_BLOCK_ELEMENTS = 1 << 21

Counts = NDArray[np.int64]
Errors = NDArray[np.float64]


class Allocation(StrEnum):
    """Which rows of a layer at N bits get N - 1, N or N + 1 planes."""

    EQUAL = "equal"
    """All rows N."""
    KURTOSIS = "kurtosis"
    """MPQ-DM: the heaviest tails are promoted, the lightest demoted."""
    ERROR_GAIN = "error-gain"
    """Each plane goes to the row whose error falls most."""


def kurtosis(weights: NDArray[np.floating]) -> Errors:
    """Plain kurtosis of every row, float64 ``[O]``: ``mean((w - mean)**4) / std**4``.

    The standard deviation is the unbiased one, as in MPQ-DM. Constant rows have kurtosis 0.
    """
    blocks = np.array_split(weights, -(-weights.size // _BLOCK_ELEMENTS))
    return np.concatenate([_kurtosis(block) for block in blocks])


def _kurtosis(weights: NDArray[np.floating]) -> Errors:
    centred = weights.astype(np.float64) - weights.mean(axis=1, keepdims=True, dtype=np.float64)
    variance = np.square(centred).sum(axis=1) / max(1, weights.shape[1] - 1)
    fourth = (centred**4).mean(axis=1)
    result: Errors = np.divide(fourth, variance**2, out=np.zeros_like(fourth), where=variance > 0)
    return result


def by_salience(salience: Errors, bits: int, share: float) -> Counts:
    """The ``share`` most salient rows get N + 1 planes, as many least salient ones N - 1."""
    rows = len(salience)
    moved = min(round(share * rows), rows // 2)
    order = np.argsort(salience, kind="stable")
    planes = np.full(rows, bits, np.int64)
    planes[order[:moved]] = bits - 1
    planes[order[rows - moved :]] = bits + 1
    return planes


def by_kurtosis(weights: NDArray[np.floating], errors: Errors, bits: int) -> Counts:
    """MPQ-DM's rule: salience is kurtosis, the share is searched for the least total error.

    Args:
        weights: ``[O, K]``.
        errors: float64 ``[3, O]``, the error of each row with N - 1, N and N + 1 planes.
        bits: N.
    """
    salience = kurtosis(weights)
    candidates = [by_salience(salience, bits, share) for share in KURTOSIS_SHARES]
    return min(candidates, key=lambda planes: total_error(errors, planes, bits))


def by_error_gain(errors: Errors, bits: int) -> Counts:
    """Give every plane to the row whose error falls most by it.

    All rows start at N - 1 planes and O planes are handed out, two per row at most. Where a row's
    second plane would gain more than its first, both count with their mean, so that taking the
    greatest gains first is optimal for the convexified errors.

    Args:
        errors: float64 ``[3, O]``, the error of each row with N - 1, N and N + 1 planes.
        bits: N.
    """
    rows = errors.shape[1]
    first, second = errors[0] - errors[1], errors[1] - errors[2]
    mean = (first + second) / 2
    concave = second > first
    gains = np.concatenate([np.where(concave, mean, first), np.where(concave, mean, second)])
    # A row's first plane must come before its second: the stable order keeps ties that way.
    taken = np.argsort(-gains, kind="stable")[:rows]
    return bits - 1 + np.bincount(taken % rows, minlength=rows).astype(np.int64)


def total_error(errors: Errors, planes: Counts, bits: int) -> float:
    """Sum over rows of the error at the planes they got."""
    return float(errors[planes - (bits - 1), np.arange(len(planes))].sum())
