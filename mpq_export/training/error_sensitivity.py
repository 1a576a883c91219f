"""How much errors of the prediction change the image it ends in: coarse and fine ones, by step.

A loss that counts all errors alike spends itself on those that the sampler forgets. On a cosine
schedule an error at the first of 20 DDIM steps reaches the image tens of times as strongly as one
in the middle, unless it is fine and the model removes it again as the noise that it looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    shape = (_IMAGES, *architecture_of(model_config).sample_shape(model_config))
    guidance = Guidance(settings.guidance, shape[1])
    own_seed = derived_seed("sensitivity", seed)
    rows = condition_rows(model_config, conditions, guided=guidance.copies == 2)(_IMAGES, own_seed)
    parts = torch.arange(_IMAGES).tensor_split(
        calls_per_step(model_config, _IMAGES * guidance.copies)
    )
    entries = torch.from_numpy(sampling_schedule(scheduler_config, settings.num_steps).entries)
    num_steps = len(entries)

    def predicted(
        model: nn.Module, images: torch.Tensor, timestep: torch.Tensor, step: int
    ) -> torch.Tensor:
        return torch.cat(
            [predicted_part(model, images, timestep, step, part) for part in parts if len(part)]
        )

    def predicted_part(
        model: nn.Module,
        images: torch.Tensor,
        timestep: torch.Tensor,
        step: int,
        part: torch.Tensor,
    ) -> torch.Tensor:
        own_rows = torch.cat([part + copy * _IMAGES for copy in range(guidance.copies)])
        both = images[part].repeat(guidance.copies, 1, 1, 1)
        conditions = {name: value[own_rows].to(device) for name, value in rows.items()}
        student.entries.value = entries[step].expand(len(own_rows)).to(device)
        prediction = predict(model, model_config, both, timestep.to(device), conditions)
        return guidance.combined(prediction.float())

    def walked(known: Sequence[torch.Tensor]) -> _Walked:
        walk = SamplingWalk(
            scheduler_config, settings.num_steps, shape, own_seed, settings.eta, device
        )
        predictions, errors = list(known), []
        for step in range(num_steps):
            images = walk.model_input()  # schedulers remember that they were asked
            if step == len(predictions):
                predictions.append(predicted(teacher, images, walk.timestep, step))
            if not known and step in probes:
                own = predicted(student.module, images, walk.timestep, step)
                errors.append((own - predictions[step])[:, : shape[1]])
            walk.advance(predictions[step])
        return _Walked(walk.sample, predictions, errors)

    probes = probed_steps(num_steps)
    progress.start("sensitivity", 1 + NUM_BANDS * len(probes))
    plain = walked(())
    _require_finite(plain, settings)
    progress.advance()

    def change(probe: int, error: torch.Tensor) -> float:
        prediction = plain.predictions[probe].clone()
        size = _root_mean_square(prediction[:, : shape[1]]).clamp_min(_LEAST_PREDICTION)
        # A student without such an error leaves the image as it is.
        scale = _RELATIVE_ERROR * size / _root_mean_square(error).clamp_min(_LEAST_ERROR * size)
        prediction[:, : shape[1]] += scale * error
        image = walked([*plain.predictions[:probe], prediction]).image
        progress.advance()
        return float(_root_mean_square(image - plain.image) / (_RELATIVE_ERROR * size))

    changes = [
        [change(probe, band) for band in banded(error)]
        for probe, error in zip(probes, plain.errors, strict=True)
    ]
    return _interpolated(probes, torch.tensor(changes), num_steps)


@dataclass(frozen=True)
class _Walked:
    """An image, all predictions on the way to it, and the student's errors at the probed steps."""

    image: torch.Tensor
    predictions: list[torch.Tensor]
    errors: list[torch.Tensor]


def _require_finite(walked: _Walked, settings: PoolSettings) -> None:
    if not bool(walked.image.isfinite().all()):
        raise RecipeError(
            "The full-precision model's images are not finite",
            where="sampling",
            why=f"Guidance is {settings.guidance}, eta {settings.eta}",
            fix="Sample from the checkpoint with these first; lower the guidance",
        )
    if not all(bool(error.isfinite().all()) for error in walked.errors):
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
