"""Euler's method over noise levels (Karras et al., EDM, arXiv 2206.00364), as in diffusers.

``EulerDiscreteScheduler`` is deterministic; ``EulerAncestralDiscreteScheduler`` goes further down
and adds fresh noise. Samples carry their noise unscaled; the denoiser is given unit variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from .noise_schedule import ScheduleConfig, noise_levels
from .noise_spacing import karras_levels, timesteps_of
from .sampler import Array, History, Noise


class EulerAncestralConfig(ScheduleConfig):
    """The options of ``EulerAncestralDiscreteScheduler``."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"


class EulerConfig(ScheduleConfig):
    """The options of ``EulerDiscreteScheduler``; one-valued types are what is implemented."""

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"
    timestep_type: Literal["discrete"] = "discrete"
    interpolation_type: Literal["linear"] = "linear"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: Literal[False, None] = False
    use_beta_sigmas: Literal[False, None] = False
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


@dataclass(frozen=True)
class Euler:
    """The deterministic method; ``levels`` ``[T + 1]`` are the noise before and after each step."""

    config: ScheduleConfig
    timesteps: Array
    levels: Array

    @classmethod
    def open(cls, options: Mapping[str, Any], num_steps: int) -> Self:
        """From a scheduler config; raises pydantic's ValidationError on what is not implemented."""
        config = EulerConfig.model_validate(options)
        training = noise_levels(config)
        timesteps, levels = _spaced(config, training, num_steps)
        if config.use_karras_sigmas:
            largest = float(levels[0]) if config.sigma_max is None else config.sigma_max
            smallest = float(levels[-1]) if config.sigma_min is None else config.sigma_min
            levels = karras_levels(largest, smallest, num_steps)
            timesteps = timesteps_of(levels, training).astype(np.float32)
        last = training[0] if config.final_sigmas_type == "sigma_min" else 0
        return cls(config, timesteps, np.append(levels, last).astype(np.float32))

    @property
    def initial_noise_scale(self) -> float:
        """The largest level, or with ``leading`` the deviation of image and noise together."""
        largest = float(self.levels.max())
        return (largest**2 + 1) ** 0.5 if self.config.timestep_spacing == "leading" else largest

    def scale_input(self, sample: Array, index: int) -> Array:
        """The sample at unit variance."""
        return sample / np.sqrt(self.levels[index] ** 2 + 1)

    def step(
        self, index: int, sample: Array, prediction: Array, history: History, noise: Noise
    ) -> tuple[Array, History]:
        """Algorithm 1 of the paper, without its correction."""
        return self._moved(index, sample, prediction, self.levels[index + 1]), ()

    def _moved(self, index: int, sample: Array, prediction: Array, target: np.float32) -> Array:
        """Along the slope at this level to the level ``target``."""
        level = self.levels[index]
        slope = (sample - self._denoised(level, sample, prediction)) / level
        return sample + slope * (target - level)

    def _denoised(self, level: np.float32, sample: Array, prediction: Array) -> Array:
        """The denoised sample that a prediction stands for."""
        if self.config.prediction_type == "epsilon":
            return sample - level * prediction
        if self.config.prediction_type == "sample":
            return prediction
        return sample / (level**2 + 1) - prediction * (level / np.sqrt(level**2 + 1))


@dataclass(frozen=True)
class EulerAncestral(Euler):
    """Euler's method with as much fresh noise in every step as DDPM's posterior has."""

    @classmethod
    def open(cls, options: Mapping[str, Any], num_steps: int) -> Self:
        """From a scheduler config; raises pydantic's ValidationError on what is not implemented."""
        config = EulerAncestralConfig.model_validate(options)
        timesteps, levels = _spaced(config, noise_levels(config), num_steps)
        return cls(config, timesteps, np.append(levels, 0).astype(np.float32))

    def step(
        self, index: int, sample: Array, prediction: Array, history: History, noise: Noise
    ) -> tuple[Array, History]:
        """Down to what leaves room for the fresh noise, then up to the next level."""
        level, following = self.levels[index], self.levels[index + 1]
        fresh = np.sqrt(following**2 * (level**2 - following**2) / level**2)
        down = np.sqrt(following**2 - fresh**2)
        return self._moved(index, sample, prediction, down) + fresh * noise(), ()


def _spaced(config: ScheduleConfig, training: Array, num_steps: int) -> tuple[Array, Array]:
    """Timesteps by table 2 of arXiv 2305.08891, and their noise levels."""
    count = config.num_train_timesteps
    timesteps: Array
    if config.timestep_spacing == "linspace":
        timesteps = np.linspace(0, count - 1, num_steps, dtype=np.float32)[::-1]
    elif config.timestep_spacing == "leading":
        whole = np.arange(num_steps)[::-1] * (count // num_steps) + config.steps_offset
        timesteps = whole.astype(np.float32)
    else:
        timesteps = (np.arange(count, 0, -count / num_steps).round() - 1).astype(np.float32)
    levels = np.interp(timesteps, np.arange(count), training)
    return timesteps, levels
