"""Sampling trajectories of the full-precision model: the data of data-free calibration.

Each starts from Gaussian noise and is driven by the full-precision model (EfficientDM, MPQ-DM); no
training image is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of
from ..prediction import predict
from ..schedulers import sampling_schedule
from .condition_rows import drawn_conditions
from .sampling_walk import SamplingWalk

_ELEMENTS_AT_ONCE = 1 << 15
"""Sample elements in one call of the model: two latents of Stable Diffusion."""


@dataclass(frozen=True)
class TrajectoryStep:
    """One step: ``sample`` float32 ``[B, C, H, W]``, its timestep and conditions, and the
    full-precision prediction. ``entry`` is the row of the activation tables it belongs to."""

    entry: int
    timestep: torch.Tensor
    sample: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    prediction: torch.Tensor


def calls_per_step(model_config: Mapping[str, Any], batch_size: int) -> int:
    """How many calls of the model one step of a trajectory takes; they bound its memory."""
    elements = math.prod(architecture_of(model_config).sample_shape(model_config))
    return -(-batch_size // max(1, _ELEMENTS_AT_ONCE // elements))


@torch.no_grad()
def full_precision_trajectory(
    model: nn.Module,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    num_steps: int,
    batch_size: int,
    seed: int,
    conditions: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[TrajectoryStep]:
    """Sample one batch of images and yield every step of it.

    ``conditions`` have one row per image; they are drawn at random where none are given.
    """
    schedule = sampling_schedule(scheduler_config, num_steps)
    shape = (batch_size, *architecture_of(model_config).sample_shape(model_config))
    walk = SamplingWalk(scheduler_config, num_steps, shape, seed)
    if conditions is None:
        conditions = drawn_conditions(model_config, batch_size, seed)
    calls = calls_per_step(model_config, batch_size)
    for entry in schedule.entries:
        timestep, scaled = walk.timestep, walk.model_input()
        parts = [
            predict(model, model_config, part, timestep, rows)
            for part, rows in _parts(scaled, conditions, calls)
        ]
        prediction = torch.cat(parts)
        yield TrajectoryStep(int(entry), timestep, scaled, conditions, prediction)
        walk.advance(prediction)


def _parts(
    sample: torch.Tensor, conditions: Mapping[str, torch.Tensor], calls: int
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """The batch cut into about equal calls."""
    for rows in torch.arange(len(sample)).tensor_split(calls):
        yield sample[rows], {name: value[rows] for name, value in conditions.items()}
