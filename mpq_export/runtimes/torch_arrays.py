"""A denoiser of torch tensors as one of numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .denoiser import Denoiser
from .selection import Selection


class NumpyDenoiser:
    """Passes arrays on as tensors on the processor, and predictions back."""

    array_type: type = np.ndarray

    def __init__(self, denoiser: Denoiser[torch.Tensor]) -> None:
        self._denoiser = denoiser

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Of the denoiser."""
        return self._denoiser.model_config

    @property
    def selection(self) -> Selection:
        """Of the denoiser."""
        return self._denoiser.selection

    def __call__(self, sample: np.ndarray, timestep: float, **conditions: np.ndarray) -> np.ndarray:
        """Predict for float32 ``[B, C, H, W]``."""
        tensors = {name: torch.from_numpy(value) for name, value in conditions.items()}
        return self._denoiser(torch.from_numpy(sample), timestep, **tensors).numpy()
