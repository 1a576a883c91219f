"""Calling a diffusers denoiser of any architecture in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .architectures import model_arguments


def predict(
    model: nn.Module,
    config: Mapping[str, Any],
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """The model's prediction for ``sample`` ``[B, C, H, W]``.

    ``timestep`` has one element, or one per image ``[B]``. Transformers want it per image.
    """
    timesteps = timestep.reshape(-1).expand(sample.shape[0])
    arguments = model_arguments(config, sample, timesteps, conditions)
    prediction: torch.Tensor = model(**arguments, return_dict=False)[0]
    return prediction
