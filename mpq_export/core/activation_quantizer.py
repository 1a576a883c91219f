"""Per-step activation tables: one scale and one integer zero point per sampler step.

MPQ-DM and EfficientDM (arXiv 2310.03270) keep a scale per sampling step because activation ranges
drift over the trajectory; TFMQ-DM calls it finite-set calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .integer_reference import ConvGeometry
from .table_steps import TableSteps

_SEARCH_RATIOS = torch.linspace(1.0, 0.2, 41)
_SWEEPS = 2


@dataclass(frozen=True)
class ActivationTable:
    """``scale`` float32 ``[T]``, positive; ``zero_point`` int32 ``[T]`` in 0 .. 2**bits - 1."""

    scale: np.ndarray
    zero_point: np.ndarray
    bits: int


def fit_table(
    samples: torch.Tensor,
    importance: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    bits: int,
) -> ActivationTable:
    """Clip each step's range for the least squared error of its samples, weighed by importance.

    The upper and the lower end shrink in turn, since activations after SiLU are lopsided: a common
    ratio would cut the short negative tail. Ranges include 0.

    Args:
        samples: float32 ``[T, n]``, activation values seen at every step.
        importance: float32 ``[n]``, how much an error of each sample matters: the energy of the
            weight's columns that read its channel makes it the error of the layer's output.
        low: float32 ``[T]``, least value seen at every step (over all values, not only samples).
        high: float32 ``[T]``, greatest value.
        bits: a, 2..8.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    clipped_low, clipped_high = low, high
    for _ in range(_SWEEPS):
        candidates = [(clipped_low, high * ratio) for ratio in _SEARCH_RATIOS]
        clipped_low, clipped_high = _best_range(samples, importance, candidates, bits)
        candidates = [(low * ratio, clipped_high) for ratio in _SEARCH_RATIOS]
        clipped_low, clipped_high = _best_range(samples, importance, candidates, bits)
    scale, zero_point = _grid(clipped_low, clipped_high, bits)
    return ActivationTable(scale.numpy(), zero_point.to(torch.int32).numpy(), bits)


def table_error(samples: torch.Tensor, importance: torch.Tensor, table: ActivationTable) -> float:
    """The error that :func:`fit_table` makes least, of all steps together."""
    scale = torch.from_numpy(table.scale)[:, None]
    zero_point = torch.from_numpy(table.zero_point).float()[:, None]
    codes = ((samples / scale).round() + zero_point).clamp(0, 2**table.bits - 1)
    return float((((codes - zero_point) * scale - samples).square() @ importance).sum())


def whole_range(low: torch.Tensor, high: torch.Tensor, bits: int) -> ActivationTable:
    """The table that clips nothing between ``low`` and ``high`` ``[T]``."""
    scale, zero_point = _grid(low.clamp(max=0.0), high.clamp(min=0.0), bits)
    return ActivationTable(scale.numpy(), zero_point.to(torch.int32).numpy(), bits)


def fit_shared_table(
    samples: torch.Tensor,
    importance: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    bits: int,
) -> ActivationTable:
    """One range for all steps together, in every entry; arguments as in :func:`fit_table`."""
    steps = len(samples)
    one = fit_table(
        samples.reshape(1, -1), importance.repeat(steps), low.amin()[None], high.amax()[None], bits
    )
    return ActivationTable(one.scale.repeat(steps), one.zero_point.repeat(steps), bits)


def table_fit(
    steps: TableSteps,
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], ActivationTable]:
    """The fit that gives such tables; arguments as in :func:`fit_table`."""
    return fit_shared_table if steps is TableSteps.SHARED else fit_table


def table_ranges(
    low: torch.Tensor, high: torch.Tensor, steps: TableSteps
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest value of what shares a range with each step, float32 ``[T]``;
    ``low`` and ``high`` are the steps' own."""
    if steps is TableSteps.SHARED:
        return low.amin().expand_as(low), high.amax().expand_as(high)
    return low, high


def _best_range(
    samples: torch.Tensor,
    importance: torch.Tensor,
    candidates: Sequence[tuple[torch.Tensor, torch.Tensor]],
    bits: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The (low, high) with the least error, chosen per step; all are ``[T]``."""
    best_low, best_high = candidates[0]
    best = torch.full_like(best_low, torch.inf)
    for low, high in candidates:
        scale, zero_point = _grid(low, high, bits)
        codes = ((samples / scale[:, None]).round() + zero_point[:, None]).clamp(0, 2**bits - 1)
        error = ((codes - zero_point[:, None]) * scale[:, None] - samples).square() @ importance
        better = error < best
        best = torch.where(better, error, best)
        best_low = torch.where(better, low, best_low)
        best_high = torch.where(better, high, best_high)
    return best_low, best_high


def _grid(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and whole zero point (as float) of a range; an empty range gets scale 1."""
    # Divided first: the width of a range can exceed float32, a step of it cannot.
    scale = high / (2**bits - 1) - low / (2**bits - 1)
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


def channel_energy(weights: torch.Tensor, conv: ConvGeometry | None) -> torch.Tensor:
    """Sum of squares of the weights ``[O, K]`` that read each input channel, float32 ``[I]``: the
    importance of its errors for :func:`fit_table`."""
    if conv is None:
        return weights.square().sum(dim=0)
    taps = conv.kernel_shape[0] * conv.kernel_shape[1]
    by_group = weights.square().unflatten(0, (conv.group, -1)).sum(dim=1)
    energy: torch.Tensor = by_group.unflatten(1, (taps, -1)).sum(dim=1).flatten()
    return energy
