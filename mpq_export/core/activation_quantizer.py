"""Per-step activation tables: one scale and one integer zero point per sampler step.

MPQ-DM and EfficientDM (arXiv 2310.03270) keep a scale per sampling step because activation ranges
drift over the trajectory; TFMQ-DM calls it finite-set calibration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_SEARCH_RATIOS = torch.linspace(1.0, 0.2, 41)
_SWEEPS = 2


@dataclass(frozen=True)
class ActivationTable:
    """``scale`` float32 ``[T]``, positive; ``zero_point`` int32 ``[T]`` in 0 .. 2**bits - 1."""

    scale: np.ndarray
    zero_point: np.ndarray
    bits: int


def fit_table(samples: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> ActivationTable:
    """Clip each step's range for the least squared error of its samples.

    The upper and the lower end shrink in turn, since activations after SiLU are lopsided: a common
    ratio would cut the short negative tail. Ranges include 0.

    Args:
        samples: float32 ``[T, n]``, activation values seen at every step.
        low: float32 ``[T]``, least value seen at every step (over all values, not only samples).
        high: float32 ``[T]``, greatest value.
        bits: a, 2..8.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    low_ratio, high_ratio = torch.ones_like(low), torch.ones_like(high)
    for _ in range(_SWEEPS):
        high_ratio = _best_ratio(samples, lambda r: (low * low_ratio, high * r), bits)
        low_ratio = _best_ratio(samples, lambda r: (low * r, high * high_ratio), bits)
    scale, zero_point = _grid(low * low_ratio, high * high_ratio, bits)
    return ActivationTable(scale.numpy(), zero_point.to(torch.int32).numpy(), bits)


def _best_ratio(samples, ends, bits: int) -> torch.Tensor:
    """The ratio of ``_SEARCH_RATIOS`` with the least error, per step ``[T]``."""
    steps = samples.shape[0]
    best = torch.full((steps,), torch.inf)
    best_ratio = torch.ones(steps)
    for ratio in _SEARCH_RATIOS:
        scale, zero_point = _grid(*ends(ratio), bits)
        codes = ((samples / scale[:, None]).round() + zero_point[:, None]).clamp(0, 2**bits - 1)
        error = ((codes - zero_point[:, None]) * scale[:, None] - samples).square().mean(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        best_ratio = torch.where(better, ratio, best_ratio)
    return best_ratio


def _grid(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and whole zero point (as float) of a range; an empty range gets scale 1."""
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)
