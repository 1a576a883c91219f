"""A diffusers denoiser as a torch module that takes its inputs by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...architectures import architecture_of
from ...lowering.tracing import named_conditions
from ...prediction import predict
from .inputs import Inputs


class PositionalDenoiser(nn.Module):
    """``(sample, timestep, *conditions) -> prediction``, in the order of drawn inputs."""

    def __init__(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.specs = architecture_of(config).conditions(config)
        self.requires_grad_(False)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        """One denoising step."""
        named = named_conditions(self.specs, sample, conditions)
        return predict(self.model, self.config, sample, timestep, named)


def positional(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Drawn inputs as tensors."""
    return tuple(torch.from_numpy(value) for value in inputs.values())
