"""Noise levels spread over the steps as Karras et al. do, and the timesteps they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_RHO = 7.0


def karras_levels(largest: float, smallest: float, count: int) -> NDArray[np.float64]:
    """``[count]`` falling noise levels (EDM, arXiv 2206.00364, equation 5)."""
    top, bottom = largest ** (1 / _RHO), smallest ** (1 / _RHO)
    levels: NDArray[np.float64] = (top + np.linspace(0, 1, count) * (bottom - top)) ** _RHO
    return levels


def timesteps_of(levels: NDArray[Any], training: NDArray[np.float32]) -> NDArray[np.float64]:
    """Timesteps between whole numbers, linear in the logarithm of the training's levels."""
    wanted, known = np.log(np.maximum(levels, 1e-10)), np.log(training)
    below = np.searchsorted(known, wanted, side="right") - 1
    below = np.clip(below, 0, len(known) - 2)
    low, high = known[below], known[below + 1]
    share = np.clip((low - wanted) / (low - high), 0, 1)
    timesteps: NDArray[np.float64] = (1 - share) * below + share * (below + 1)
    return timesteps
