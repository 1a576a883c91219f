"""Whole-model differences: predictions of two models for the same inputs, as relative error.

Judge quantised networks by distributions of images instead; these numbers say how far apart two
predictions are, and for two runtimes of one quantised model even percents can be rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PredictionError:
    """Differences of predictions ``[B, C, H, W]`` over all steps: ``norm(a - b) / norm(b)``."""

    relative: float
    worst_step_relative: float


def prediction_error(
    predictions: Sequence[np.ndarray], reference: Sequence[np.ndarray]
) -> PredictionError:
    """Compare predictions step by step with reference ones."""
    noise = [
        float(np.square((a - b).astype(np.float64)).sum())
        for a, b in zip(predictions, reference, strict=True)
    ]
    signal = [float(np.square(b.astype(np.float64)).sum()) for b in reference]
    by_step = [np.sqrt(n / max(s, 1e-300)) for n, s in zip(noise, signal, strict=True)]
    return PredictionError(
        float(np.sqrt(sum(noise) / max(sum(signal), 1e-300))), float(max(by_step))
    )
