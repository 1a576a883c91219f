"""What every sampler offers: a fixed sequence of timesteps, and one step along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
"""Float32 throughout; numpy's types do not follow scalar arithmetic that closely."""

History = tuple[Array, ...]
"""Earlier denoised samples, latest last; one-step methods keep none."""

Noise = Callable[[], Array]
"""Fresh standard normal numbers in the sample's shape; only stochastic methods ask for them."""


class Sampler(Protocol):
    """A scheduler prepared for one number of steps. It never changes; the caller keeps the state.

    Start with ``initial_noise_scale`` times standard normal noise and an empty history; for every
    index, predict from ``scale_input(sample, index)`` at ``timesteps[index]`` and take the step.
    """

    @property
    def timesteps(self) -> NDArray[Any]:
        """The timesteps visited, in order: integers, or float32 where they may lie between."""

    @property
    def initial_noise_scale(self) -> float:
        """Standard deviation of the first sample."""

    def scale_input(self, sample: Array, index: int) -> Array:
        """What the denoiser is given, ``[B, C, H, W]``."""

    def step(
        self, index: int, sample: Array, prediction: Array, history: History, noise: Noise
    ) -> tuple[Array, History]:
        """The next sample and history from the denoiser's ``prediction``, all ``[B, C, H, W]``."""
