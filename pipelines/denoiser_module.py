"""A denoiser of any runtime in the place where a diffusers pipeline expects its UNet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..runtimes.denoiser import Denoiser


class DenoiserModule(torch.nn.Module):
    """Called and configured like a ``UNet2DModel``."""

    def __init__(self, denoiser: Denoiser[Any]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config = FrozenDict(denoiser.model_config)

    @property
    def dtype(self) -> torch.dtype:
        """Pipelines keep their samples in this type."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Pipelines keep their samples here."""
        return torch.device("cpu")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        return_dict: bool = True,
        **conditions: Any,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Predict the noise; conditions that are None are left out."""
        given = {name: value for name, value in conditions.items() if value is not None}
        if self.denoiser.array_type is np.ndarray:
            arrays = {name: value.numpy() for name, value in given.items()}
            prediction = torch.from_numpy(self.denoiser(sample.numpy(), float(timestep), **arrays))
        else:
            prediction = self.denoiser(sample, float(timestep), **given)
        return UNet2DOutput(prediction) if return_dict else (prediction,)
