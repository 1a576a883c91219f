"""DPM-Solver++ (Lu et al., arXiv 2211.01095), as ``DPMSolverMultistepScheduler`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .noise_schedule import ScheduleConfig, noise_levels
from .noise_spacing import karras_levels, timesteps_of
from .sampler import Array, History, Noise
from .thresholding import threshold

_FEW_STEPS = 15


class DpmSolverConfig(ScheduleConfig):
    """The options of ``DPMSolverMultistepScheduler``; one-valued types are what is implemented."""

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"
    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, ge=0, le=1)
    sample_max_value: float = 1.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: Literal[False, None] = False
    use_beta_sigmas: Literal[False, None] = False
    use_lu_lambdas: Literal[False, None] = False
    use_flow_sigmas: Literal[False, None] = False
    # Without an option for it, diffusers reads these two out of configs of other schedulers.
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    lambda_min_clipped: float = Field(-np.inf, allow_inf_nan=True)


@dataclass(frozen=True)
class DpmSolver:
    """The multistep solver; ``levels`` ``[T + 1]`` are noise over signal before and after steps."""

    config: DpmSolverConfig
    timesteps: NDArray[np.int64]
    levels: Array
    initial_noise_scale: float = 1.0

    @classmethod
    def open(cls, options: Mapping[str, Any], num_steps: int) -> Self:
        """From a scheduler config; raises pydantic's ValidationError on what is not implemented."""
        config = DpmSolverConfig.model_validate(options)
        training = noise_levels(config)
        if config.use_karras_sigmas:
            largest = float(training[-1]) if config.sigma_max is None else config.sigma_max
            smallest = float(training[0]) if config.sigma_min is None else config.sigma_min
            levels = karras_levels(largest, smallest, num_steps)
            between = timesteps_of(levels, training)
            whole = between if config.beta_schedule == "squaredcos_cap_v2" else between.round()
            timesteps = whole.astype(np.int64)
        else:
            timesteps = _timesteps(config, training, num_steps)
            levels = np.interp(timesteps, np.arange(len(training)), training)
        last = training[0] if config.final_sigmas_type == "sigma_min" else 0
        return cls(config, timesteps, np.append(levels, last).astype(np.float32))

    def scale_input(self, sample: Array, index: int) -> Array:
        """The sample itself."""
        return sample

    def step(
        self, index: int, sample: Array, prediction: Array, history: History, noise: Noise
    ) -> tuple[Array, History]:
        """Algorithm 2 of the paper, and its third-order sibling."""
        history = (*history, self._denoised(index, sample, prediction))
        history = history[-self.config.solver_order :]
        order = self._order(index, history)
        _, noise_now, ratio_now = self._at(index)
        signal, noise_next, ratio_next = self._at(index + 1)
        step = ratio_next - ratio_now
        decay = np.exp(-step)
        following = noise_next / noise_now * sample - signal * (decay - 1) * history[-1]
        if order == 1:
            return following, history
        first, second = self._differences(index, step, history[-order:])
        ramp = signal * ((decay - 1) / step + 1)
        if order == 3:
            curve = signal * ((decay - 1 + step) / step**2 - np.float32(0.5))
            return following + ramp * first - curve * second, history
        if self.config.solver_type == "heun":
            return following + ramp * first, history
        return following - np.float32(0.5) * signal * (decay - 1) * first, history

    def _order(self, index: int, history: History) -> int:
        """Low orders where history is short, and at the end, where high ones are unstable."""
        config, left = self.config, len(self.timesteps) - 1 - index
        few = config.lower_order_final and len(self.timesteps) < _FEW_STEPS
        order = min(config.solver_order, len(history))
        if left == 0 and (few or config.euler_at_final or config.final_sigmas_type == "zero"):
            return 1
        return min(order, 2) if left == 1 and few else order

    def _differences(self, index: int, step: np.float32, history: History) -> tuple[Array, Array]:
        """First and second divided differences of the denoised samples over the log ratio of
        signal and noise, in units of ``step``; with two samples the second is zero."""
        now, before = self._at(index)[2], self._at(index - 1)[2]
        near = (now - before) / step
        latest = (history[-1] - history[-2]) / near
        if len(history) == 2:
            return latest, np.zeros_like(latest)
        far = (before - self._at(index - 2)[2]) / step
        change = (latest - (history[-2] - history[-3]) / far) / (near + far)
        return latest + near * change, change

    def _at(self, index: int) -> tuple[np.float32, np.float32, np.float32]:
        """Signal, noise and the logarithm of their ratio, before step ``index``."""
        level = self.levels[index]
        signal = np.float32(1) / np.sqrt(level**2 + 1)
        noise = level * signal
        with np.errstate(divide="ignore"):  # the last level may be 0: the ratio is then infinite
            return signal, noise, np.log(signal) - np.log(noise)

    def _denoised(self, index: int, sample: Array, prediction: Array) -> Array:
        """The denoised sample that a prediction stands for."""
        signal, noise, _ = self._at(index)
        denoised = prediction
        if self.config.prediction_type == "epsilon":
            denoised = (sample - noise * prediction) / signal
        elif self.config.prediction_type == "v_prediction":
            denoised = signal * sample - noise * prediction
        if not self.config.thresholding:
            return denoised
        ratio, largest = self.config.dynamic_thresholding_ratio, self.config.sample_max_value
        return threshold(denoised, ratio, largest)


def _timesteps(config: DpmSolverConfig, training: Array, num_steps: int) -> NDArray[np.int64]:
    """Table 2 of arXiv 2305.08891, over the timesteps with enough signal."""
    rising = -np.log(training[::-1])
    count = config.num_train_timesteps - int(np.searchsorted(rising, config.lambda_min_clipped))
    if config.timestep_spacing == "linspace":
        return np.linspace(0, count - 1, num_steps + 1).round()[:0:-1].astype(np.int64)
    if config.timestep_spacing == "leading":
        return np.arange(1, num_steps + 1)[::-1] * (count // (num_steps + 1)) + config.steps_offset
    ratio = config.num_train_timesteps / num_steps
    return np.arange(count, 0, -ratio).round().astype(np.int64) - 1
