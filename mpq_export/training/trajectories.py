"""Sampling trajectories of the full-precision model: the data of data-free calibration.

Each starts from Gaussian noise with random conditions and is driven by the full-precision model
(EfficientDM, MPQ-DM); no training image is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of
from ..schedulers import build_scheduler


@dataclass(frozen=True)
class TrajectoryStep:
    """One step: ``sample`` float32 ``[B, C, H, W]``, its timestep and conditions, and the
    full-precision prediction."""

    index: int
    timestep: torch.Tensor
    sample: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    prediction: torch.Tensor


def predict(
    model: nn.Module,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """The model's prediction as a tensor."""
    return model(sample, timestep, **conditions, return_dict=False)[0]


@torch.no_grad()
def full_precision_trajectory(
    model: nn.Module,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Iterator[TrajectoryStep]:
    """Sample one batch of images and yield every step of it."""
    architecture = architecture_of(model_config)
    generator = torch.Generator().manual_seed(seed)
    scheduler = build_scheduler(scheduler_config)
    scheduler.set_timesteps(num_steps)
    shape = (batch_size, *architecture.sample_shape(model_config))
    sample = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    conditions = {
        spec.name: torch.randint(0, spec.classes, (batch_size,), generator=generator)
        for spec in architecture.conditions(model_config)
    }
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    noise = {"generator": generator} if stochastic else {}
    takes_variance = str(scheduler.config.get("variance_type")).startswith("learned")
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(sample, timestep)
        prediction = predict(model, scaled, timestep, conditions)
        yield TrajectoryStep(index, timestep, scaled, conditions, prediction)
        # A learned variance is in further channels of the prediction; few schedulers take them.
        output = prediction if takes_variance else prediction[:, : sample.shape[1]]
        sample = scheduler.step(output, timestep, sample, **noise).prev_sample
