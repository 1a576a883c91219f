"""Calling a diffusers denoiser of any architecture in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


def bias_table(output_bias: NDArray[np.float32]) -> torch.Tensor:
    """A bundle's output bias ``[T]`` or ``[T, C]`` as a table, ``[T]`` or ``[T, C, 1, 1]``, whose
    entries are added to predictions ``[B, C, H, W]``."""
    table = torch.from_numpy(output_bias.copy())
    return table if table.dim() == 1 else table[:, :, None, None]
