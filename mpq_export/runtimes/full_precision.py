"""The model that was quantised as a denoiser like any other: what bundles are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..prediction import predict
from .names import Runtime
from .selection import Selection


class FullPrecisionDenoiser:
    """A diffusers model called as a :class:`~.denoiser.Denoiser` of ``torch.Tensor``.

    Args:
        model: a checkpoint's model, on the processor.
        model_config: its component config.
    """

    array_type: type = torch.Tensor

    def __init__(self, model: nn.Module, model_config: Mapping[str, Any]) -> None:
        self.model, self.model_config = model, model_config
        self.selection = Selection(Runtime.TORCH, Runtime.TORCH, "full precision")

    @torch.no_grad()
    def __call__(
        self, sample: torch.Tensor, timestep: float, **conditions: torch.Tensor
    ) -> torch.Tensor:
        """Predict for float32 ``[B, C, H, W]``."""
        return predict(
            self.model, self.model_config, sample, torch.as_tensor(float(timestep)), conditions
        )
