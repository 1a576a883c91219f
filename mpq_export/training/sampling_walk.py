"""A batch of images on their way through a sampler's steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import RecipeError
from ..schedulers import build_scheduler, scheduler_at_work


class SamplingWalk:
    """Images that start as noise and take one scheduler step for every prediction.

    The walk has a scheduler of its own, as multistep schedulers remember predictions. Its noise
    comes from one generator on the CPU, so that it is the same on every device.

    Attributes:
        step: how many steps have been taken.
        sample: float32 ``[B, C, H, W]`` before this step.
    """

    def __init__(
        self,
        scheduler_config: Mapping[str, Any],
        num_steps: int,
        shape: tuple[int, ...],
        seed: int,
        eta: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._scheduler = build_scheduler(scheduler_config)
        self._scheduler.set_timesteps(num_steps)
        generator = torch.Generator().manual_seed(seed)
        self._options = _step_options(self._scheduler, generator, eta)
        variance_type = str(self._scheduler.config.get("variance_type"))
        self._takes_variance = variance_type.startswith("learned")
        noise = torch.randn(shape, generator=generator) * self._scheduler.init_noise_sigma
        self.sample: torch.Tensor = noise.to(device)
        self.step = 0

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep of this step, one element on the CPU."""
        timestep: torch.Tensor = self._scheduler.timesteps[self.step]
        return timestep

    def model_input(self) -> torch.Tensor:
        """The sample as the model wants it at this step."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(self.sample, self.timestep)
        return scaled

    def advance(self, prediction: torch.Tensor) -> None:
        """Take the step that a prediction ``[B, C', H, W]`` for the model input asks for."""
        # A learned variance is in further channels of the prediction; few schedulers take them.
        output = prediction if self._takes_variance else prediction[:, : self.sample.shape[1]]
        with scheduler_at_work():
            self.sample = self._scheduler.step(
                output, self.timestep, self.sample, **self._options
            ).prev_sample
        self.step += 1


def require_eta(scheduler_config: Mapping[str, Any], eta: float | None) -> None:
    """Raise RecipeError if there is an eta and the scheduler's step takes none."""
    _step_options(build_scheduler(scheduler_config), torch.Generator(), eta)


def _step_options(scheduler: Any, generator: torch.Generator, eta: float | None) -> dict[str, Any]:
    """What the scheduler's step takes beside the prediction; ``eta`` None is its own default."""
    taken = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": generator} if "generator" in taken else {}
    if eta is None:
        return options
    if "eta" not in taken:
        raise RecipeError(
            f"{type(scheduler).__name__} takes no eta", where="eta", fix="Leave it out"
        )
    return options | {"eta": eta}
