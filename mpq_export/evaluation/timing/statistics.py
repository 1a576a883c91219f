"""What is said of the times of one backend, and of two in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Milliseconds per step over the rounds: the median, and the 10th and 90th percentile."""

    median: float
    p10: float
    p90: float
    rounds: int


def spread_of(milliseconds: Sequence[float]) -> Spread:
    """Percentiles of at least one round."""
    p10, median, p90 = np.percentile(milliseconds, (10, 50, 90))
    return Spread(float(median), float(p10), float(p90), len(milliseconds))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median over the rounds of one time in units of the other, taken round by round."""
    rounds = np.asarray(slower, np.float64) / np.asarray(faster, np.float64)
    return float(np.median(rounds))
