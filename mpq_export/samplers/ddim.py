"""DDIM (Song et al., arXiv 2010.02502), as diffusers' ``DDIMScheduler`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .noise_schedule import ScheduleConfig, cumulative_alphas
from .sampler import Array, History, Noise
from .thresholding import threshold


class DdimConfig(ScheduleConfig):
    """The options of ``DDIMScheduler``."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, ge=0, le=1)
    sample_max_value: float = 1.0


Mix = tuple[float, float]
"""Factors of two tensors that are added."""


@dataclass(frozen=True)
class Ddim:
    """DDIM in ``num_steps`` steps; ``eta`` 0 is deterministic, 1 adds as much noise as DDPM."""

    config: DdimConfig
    num_steps: int
    timesteps: NDArray[np.int64]
    alphas: Array
    eta: float = 0.0
    initial_noise_scale: float = 1.0

    @classmethod
    def open(cls, options: Mapping[str, Any], num_steps: int) -> Self:
        """From a scheduler config; raises pydantic's ValidationError on what is not implemented."""
        config = DdimConfig.model_validate(options)
        return cls(config, num_steps, _timesteps(config, num_steps), cumulative_alphas(config))

    def scale_input(self, sample: Array, index: int) -> Array:
        """The sample itself."""
        return sample

    def step(
        self, index: int, sample: Array, prediction: Array, history: History, noise: Noise
    ) -> tuple[Array, History]:
        """Equation 12."""
        alpha, alpha_next = self._signal(index)
        denoised, direction = self._split(sample, prediction, alpha)
        if self.config.thresholding:
            ratio, largest = self.config.dynamic_thresholding_ratio, self.config.sample_max_value
            denoised = threshold(denoised, ratio, largest)
        elif self.config.clip_sample:
            limit = np.float32(self.config.clip_sample_range)
            denoised = np.clip(denoised, -limit, limit)
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)  # equation 16
        sigma = np.float32(self.eta) * np.sqrt(variance)
        sample = np.sqrt(alpha_next) * denoised + np.sqrt(1 - alpha_next - sigma**2) * direction
        return (sample + sigma * noise() if self.eta else sample), ()

    def mixes(self, index: int) -> tuple[Mix, Mix, Mix]:
        """Of sample and prediction in the denoised sample; of the same in the noise; and of these
        two in the next sample, where ``eta`` is 0.
        """
        alpha, alpha_next = self._signal(index)
        none, once = np.zeros((), np.float32), np.ones((), np.float32)
        of_sample, of_prediction = self._split(once, none, alpha), self._split(none, once, alpha)
        denoised, noise = zip(of_sample, of_prediction, strict=True)
        following = np.sqrt(alpha_next), np.sqrt(1 - alpha_next)
        return _numbers(denoised), _numbers(noise), _numbers(following)

    def _signal(self, index: int) -> tuple[np.float32, np.float32]:
        """The signal's variance at this step's timestep and at the next one's."""
        timestep = int(self.timesteps[index])
        following = timestep - self.config.num_train_timesteps // self.num_steps
        if following >= 0:
            return self.alphas[timestep], self.alphas[following]
        clean = np.float32(1) if self.config.set_alpha_to_one else self.alphas[0]
        return self.alphas[timestep], clean

    def _split(self, sample: Array, prediction: Array, alpha: np.float32) -> tuple[Array, Array]:
        """The denoised sample and the noise that a prediction stands for."""
        signal, noise = np.sqrt(alpha), np.sqrt(1 - alpha)
        if self.config.prediction_type == "epsilon":
            return (sample - noise * prediction) / signal, prediction
        if self.config.prediction_type == "sample":
            return prediction, (sample - signal * prediction) / noise
        return signal * sample - noise * prediction, signal * prediction + noise * sample


def _numbers(mix: tuple[Any, Any]) -> Mix:
    return float(mix[0]), float(mix[1])


def _timesteps(config: DdimConfig, num_steps: int) -> NDArray[np.int64]:
    """Table 2 of arXiv 2305.08891."""
    count = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.linspace(0, count - 1, num_steps).round()[::-1].astype(np.int64)
    if config.timestep_spacing == "leading":
        return np.arange(num_steps)[::-1] * (count // num_steps) + config.steps_offset
    return np.arange(count, 0, -count / num_steps).round().astype(np.int64) - 1
