"""The calibration trajectories, kept: a block's calls can be had from them again at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..prediction import predict
from ..training.trajectories import TrajectoryStep


@dataclass(frozen=True)
class Samples:
    """So many images of each of so many steps, which are spread over all steps."""

    steps: int
    per_step: int

    @property
    def count(self) -> int:
        """Of all steps together."""
        return self.steps * self.per_step


@dataclass(frozen=True)
class ChosenImages:
    """Some images, int64 ``[n]``, at one step."""

    step: TrajectoryStep
    images: torch.Tensor

    @property
    def sample(self) -> torch.Tensor:
        """``[n, ...]``, as the model takes it."""
        return self.step.sample[self.images]

    @property
    def conditions(self) -> dict[str, torch.Tensor]:
        """One row for each image."""
        return {name: value[self.images] for name, value in self.step.conditions.items()}


@dataclass
class CalibrationWalk:
    """The samples of all steps, which are small; activations inside the model are made anew."""

    steps: list[TrajectoryStep] = field(default_factory=list)

    def keeping(self, trajectory: Iterable[TrajectoryStep]) -> Iterator[TrajectoryStep]:
        """The same steps, each kept as it passes."""
        for step in trajectory:
            self.steps.append(step)
            yield step

    def of_every_step(self, per_step: int) -> Samples:
        """So many images of all steps."""
        return Samples(len(self.steps), per_step)

    def chosen(self, samples: Samples, seed: int) -> list[ChosenImages]:
        """Images of some steps or all, at most all images of each, others at each."""
        generator = torch.Generator().manual_seed(seed)
        places = torch.linspace(0, len(self.steps) - 1, samples.steps).round().long().tolist()
        orders = [torch.randperm(len(step.sample), generator=generator) for step in self.steps]
        return [ChosenImages(self.steps[i], orders[i][: samples.per_step]) for i in places]


@torch.no_grad()
def replay(model: nn.Module, model_config: Mapping[str, Any], chosen: ChosenImages) -> torch.Tensor:
    """The model's prediction for images that were chosen."""
    timestep = chosen.step.timestep
    return predict(model, model_config, chosen.sample, timestep, chosen.conditions)
