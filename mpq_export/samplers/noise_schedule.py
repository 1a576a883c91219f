"""The variance-preserving noise of training: betas, and the signal that is left at each timestep.

The arithmetic is diffusers': float32, products accumulated in float64. Equal timesteps and
trajectories depend on it.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .sampler import Array

MAX_TRAIN_TIMESTEPS = 100_000
_LARGEST_COSINE_BETA = 0.999
_SMALLEST_SIGNAL = np.float32(2**-24)
"""What samplers that divide by the signal put in the place of zero."""


class ScheduleConfig(BaseModel):
    """Options that all samplers share, with diffusers' names and defaults.

    Keys of other scheduler classes are ignored, as diffusers does.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    num_train_timesteps: int = Field(1000, ge=1, le=MAX_TRAIN_TIMESTEPS)
    beta_start: float = Field(0.0001, ge=0, lt=1)
    beta_end: float = Field(0.02, ge=0, lt=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: int = Field(0, ge=0, le=MAX_TRAIN_TIMESTEPS)
    rescale_betas_zero_snr: bool = False

    @model_validator(mode="after")
    def _one_beta_per_timestep(self) -> Self:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError("trained_betas has one entry for each of num_train_timesteps")
        return self


def cumulative_alphas(config: ScheduleConfig) -> Array:
    """``[num_train_timesteps]``: the share of the signal's variance left at each timestep."""
    betas = _betas(config)
    return _cumulative(_rescaled(betas) if config.rescale_betas_zero_snr else betas)


def noise_levels(config: ScheduleConfig) -> Array:
    """``[num_train_timesteps]``: noise over signal, finite even where no signal is left."""
    alphas = cumulative_alphas(config)
    if config.rescale_betas_zero_snr:
        alphas[-1] = _SMALLEST_SIGNAL
    return np.sqrt((1 - alphas) / alphas)


def _betas(config: ScheduleConfig) -> Array:
    count = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.array(config.trained_betas, np.float32)
    if config.beta_schedule == "linear":
        return _linspace(config.beta_start, config.beta_end, count)
    if config.beta_schedule == "scaled_linear":
        return np.square(_linspace(config.beta_start**0.5, config.beta_end**0.5, count))
    time = np.arange(count + 1) / count  # Nichol and Dhariwal, arXiv 2102.09672
    signal = np.square(np.cos((time + 0.008) / 1.008 * np.pi / 2))
    return np.minimum(1 - signal[1:] / signal[:-1], _LARGEST_COSINE_BETA).astype(np.float32)


def _linspace(start: float, end: float, count: int) -> Array:
    """From both ends to the middle with a float32 step, as torch does."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(max(count - 1, 1)))
    index = np.arange(count)
    values = np.where(index < count // 2, first + step * index, last - step * (count - 1 - index))
    return (values if count > 1 else np.array([first])).astype(np.float32)


def _rescaled(betas: Array) -> Array:
    """No signal left at the last timestep (Lin et al., arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(_cumulative(betas))
    shifted = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    signal = np.square(shifted)
    return 1 - np.concatenate([signal[:1], signal[1:] / signal[:-1]])


def _cumulative(betas: Array) -> Array:
    return np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)
