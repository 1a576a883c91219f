"""How much errors of the prediction change the image it ends in: coarse and fine ones, by step.

A loss that counts all errors alike spends itself on those that the sampler forgets. On a cosine
schedule an error at the first of 20 DDIM steps reaches the image tens of times as strongly as one
in the middle, unless it is fine and the model removes it again as the noise that it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..architectures import architecture_of
from ..errors import RecipeError
from ..prediction import predict
from ..progress import ProgressReporter
from ..schedulers import sampling_schedule
from .condition_rows import condition_rows
from .error_bands import NUM_BANDS, banded
from .guidance import Guidance
from .sampling_walk import SamplingWalk
from .seeds import derived_seed
from .student import Student
from .trajectories import calls_per_step
from .trajectory_pool import PoolSettings

_IMAGES = 8
_RELATIVE_ERROR = 0.05
"""Of the prediction's root mean square: about what a trained model at 3 bits is off. Models before
training at 2 bits are off by much more, and images are not linear in that."""
MAX_PROBES = 20
"""Steps that are disturbed; what lies between them is interpolated, as every one costs a walk."""
_GREATEST_RATIO = 20.0
"""Of a weight to the mean of all, and of that mean to a weight, before they are 1 on average again:
no step may be forgotten, as its error would grow until it counts."""
_LEAST_PREDICTION = 1e-2
"""A model that predicts nothing at a step is disturbed as if it predicted so much."""
_LEAST_ERROR = 1e-6
"""Of the prediction: what a student's error is scaled up from at most."""


def error_weights(sensitivity: torch.Tensor, power: float) -> torch.Tensor:
    """Weights of the squared errors of each step and band, float32 ``[S, 2]``, 1 on average; none
    is more than 400 times another.

    Independent errors add up in the image as their squares times the sensitivity's square, so that
    a ``power`` of 2 is the image's squared error; 0 counts all errors alike.
    """
    weights = (sensitivity / sensitivity.max()) ** power
    weights = (weights / weights.mean()).clamp(1 / _GREATEST_RATIO, _GREATEST_RATIO)
    return weights / weights.mean()


def probed_steps(num_steps: int) -> list[int]:
    """Steps that are disturbed: all, or as many as are possible, spread evenly, first and last
    among them."""
    places = np.linspace(0, num_steps - 1, min(num_steps, MAX_PROBES))
    return [int(place) for place in places.round()]


def walked_predictions(num_steps: int) -> int:
    """How many predictions of single images measuring takes, before guidance."""
    probes = probed_steps(num_steps)
    disturbed = NUM_BANDS * sum(num_steps - 1 - probe for probe in probes)
    return _IMAGES * (num_steps + len(probes) + disturbed)


@torch.no_grad()
def error_sensitivity(
    teacher: nn.Module,
    student: Student,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    settings: PoolSettings,
    seed: int,
    conditions: Mapping[str, torch.Tensor] | None,
    device: torch.device,
    progress: ProgressReporter,
) -> torch.Tensor:
    """Disturb one prediction by a band of the student's error, walk on with the full-precision
    model, and compare.

    Args:
        teacher: the full-precision model.
        student: the quantised one, as training finds it. Each band of its error at a step is
            scaled to a share of the prediction, so that only the form counts.
        model_config, scheduler_config: the configs of both.
        settings: sampler steps, guidance and eta of the walks.
        seed: of noise and conditions.
        conditions: rows to choose from; None draws them.
        device: where both compute.
        progress: told of every walk.

    Returns the image's change by the prediction's error, both as root mean squares, float32
    ``[S, 2]`` on the CPU, for coarse and fine errors. Raises RecipeError where a walk or the
    student leaves the finite numbers.
    """
    walks = _Walks(model_config, scheduler_config, settings, seed, conditions, device)
    probes = probed_steps(walks.num_steps)
    places: list[_Place] = []
    predictions: list[torch.Tensor] = []

    def recorded(place: _Place) -> torch.Tensor:
        places.append(place)
        predictions.append(walks.predicted(teacher, place))
        return predictions[-1]

    progress.start("sensitivity", 1 + NUM_BANDS * len(probes))
    plain = walks.walked(recorded)
    _require_finite_image(plain, settings)
    progress.advance()

    def change(probe: int, error: torch.Tensor) -> float:
        disturbed = predictions[probe].clone()
        own = disturbed[:, : error.shape[1]]
        size = _root_mean_square(own).clamp_min(_LEAST_PREDICTION)
        # A student without such an error leaves the image as it is.
        scale = _RELATIVE_ERROR * size / _root_mean_square(error).clamp_min(_LEAST_ERROR * size)
        own += scale * error

        def prediction_of(place: _Place) -> torch.Tensor:
            if place.step > probe:
                return walks.predicted(teacher, place)
            return disturbed if place.step == probe else predictions[place.step]

        image = walks.walked(prediction_of)
        progress.advance()
        return float(_root_mean_square(image - plain) / (_RELATIVE_ERROR * size))

    changes = []
    for probe in probes:
        student.entries.value = walks.entries_of(places[probe]).to(device)
        error = walks.predicted(student.module, places[probe]) - predictions[probe]
        _require_finite_error(error)
        changes.append([change(probe, band) for band in banded(error[:, : walks.shape[1]])])
    return _interpolated(probes, torch.tensor(changes), walks.num_steps)


@dataclass(frozen=True)
class _Place:
    """Where walks are asked for a prediction: the model's input ``[B, C, H, W]``, the timestep
    ``[1]`` and the number of the step."""

    images: torch.Tensor
    timestep: torch.Tensor
    step: int


class _Walks:
    """The same few images on their way through the sampler, as often as wanted.

    Attributes:
        shape: of the images, ``(B, C, H, W)``.
        num_steps: of the sampler, which may take more than it was asked for.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        scheduler_config: Mapping[str, Any],
        settings: PoolSettings,
        seed: int,
        conditions: Mapping[str, torch.Tensor] | None,
        device: torch.device,
    ) -> None:
        self.shape = (_IMAGES, *architecture_of(model_config).sample_shape(model_config))
        self._model_config, self._scheduler_config = model_config, scheduler_config
        self._settings, self._device = settings, device
        self._seed = derived_seed("sensitivity", seed)
        self._guidance = Guidance(settings.guidance, self.shape[1])
        guided = self._guidance.copies == 2
        self._rows = condition_rows(model_config, conditions, guided)(_IMAGES, self._seed)
        calls = calls_per_step(model_config, _IMAGES * self._guidance.copies)
        self._parts = [p for p in torch.arange(_IMAGES).tensor_split(calls) if len(p)]
        schedule = sampling_schedule(scheduler_config, settings.num_steps)
        self._entries = torch.from_numpy(schedule.entries)
        self.num_steps = len(self._entries)

    def entries_of(self, place: _Place) -> torch.Tensor:
        """The row of the activation tables that a place has, int64 ``[1]``."""
        return self._entries[place.step : place.step + 1]

    def predicted(self, model: nn.Module, place: _Place) -> torch.Tensor:
        """What a model predicts there, guided, float32 ``[B, C', H, W]``."""
        return torch.cat([self._predicted_part(model, place, part) for part in self._parts])

    def walked(self, prediction_of: Callable[[_Place], torch.Tensor]) -> torch.Tensor:
        """The images ``[B, C, H, W]`` in which a walk with these predictions ends."""
        settings = self._settings
        walk = SamplingWalk(
            self._scheduler_config,
            settings.num_steps,
            self.shape,
            self._seed,
            settings.eta,
            self._device,
        )
        for step in range(self.num_steps):
            # Schedulers remember that they were asked for the model's input.
            walk.advance(prediction_of(_Place(walk.model_input(), walk.timestep, step)))
        return walk.sample

    def _predicted_part(self, model: nn.Module, place: _Place, part: torch.Tensor) -> torch.Tensor:
        copies = self._guidance.copies
        own_rows = torch.cat([part + copy * _IMAGES for copy in range(copies)])
        images = place.images[part].repeat(copies, 1, 1, 1)
        conditions = {name: rows[own_rows].to(self._device) for name, rows in self._rows.items()}
        timestep = place.timestep.to(self._device)
        prediction = predict(model, self._model_config, images, timestep, conditions)
        return self._guidance.combined(prediction.float())


def _require_finite_image(image: torch.Tensor, settings: PoolSettings) -> None:
    if not bool(image.isfinite().all()):
        raise RecipeError(
            "The full-precision model's images are not finite",
            where="sampling",
            why=f"Guidance is {settings.guidance}, eta {settings.eta}",
            fix="Sample from the checkpoint with these first; lower the guidance",
        )


def _require_finite_error(error: torch.Tensor) -> None:
    if not bool(error.isfinite().all()):
        raise RecipeError(
            "The quantised model's predictions are not finite before training",
            where="sampling",
            fix="Check the export without training first: --method rtn",
        )


def _root_mean_square(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()


def _interpolated(probes: Sequence[int], changes: torch.Tensor, steps: int) -> torch.Tensor:
    """From ``[probes, 2]`` to ``[S, 2]``, geometrically, as sensitivities span orders of magnitude;
    an error that changes nothing at all counts as one that changes next to nothing."""
    single = np.finfo(np.float32)
    least = max(float(changes.max()) * float(single.eps), float(single.tiny))
    logarithms = changes.clamp_min(least).log().numpy()
    bands = [np.exp(np.interp(range(steps), probes, band)) for band in logarithms.T]
    return torch.from_numpy(np.stack(bands, axis=1)).float()
