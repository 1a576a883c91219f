"""How much an error of the prediction at each step of a sampler changes the image it ends in.

A loss that counts all steps alike spends itself on errors that the sampler forgets: on a cosine
schedule, an error at the first of 20 DDIM steps reaches the image tens of times as strongly as one
in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .guidance import Guidance
from .sampling_walk import SamplingWalk
from .seeds import derived_seed
from .trajectories import calls_per_step
from .trajectory_pool import PoolSettings

_IMAGES = 8
_RELATIVE_ERROR = 0.05
"""Of the prediction's root mean square: about what a trained model at 3 bits is off."""
MAX_PROBES = 20
"""Steps that are disturbed; what lies between them is interpolated, as every one costs a walk."""
_GREATEST_RATIO = 20.0
"""Of a weight to the mean of all, and of that mean to a weight, before they are 1 on average again:
no step may be forgotten, as its error would grow until it counts."""
_LEAST_PREDICTION = 1e-2
"""A model that predicts nothing at a step is disturbed as if it predicted so much."""


def step_weights(sensitivity: torch.Tensor, power: float) -> torch.Tensor:
    """Weights of the squared error at each step, float32 ``[S]``, 1 on average; none is more than
    400 times another.

    Independent errors of the steps add up in the image as their squares times the sensitivity's
    square, so that a ``power`` of 2 is the image's squared error; 0 counts all steps alike.
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
    return _IMAGES * (num_steps + sum(num_steps - 1 - probe for probe in probed_steps(num_steps)))


@torch.no_grad()
def step_sensitivity(
    teacher: nn.Module,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    settings: PoolSettings,
    seed: int,
    conditions: Mapping[str, torch.Tensor] | None,
    device: torch.device,
    progress: ProgressReporter,
) -> torch.Tensor:
    """Disturb one prediction with noise, walk on with the full-precision model, and compare.

    Args:
        teacher, model_config, scheduler_config: the model and its configs.
        settings: sampler steps, guidance and eta of the walks.
        seed: of noise and conditions.
        conditions: rows to choose from; None draws them.
        device: where the teacher computes.
        progress: told of every walk.

    Returns the image's change by the prediction's error, both as root mean squares, float32
    ``[S]`` on the CPU. Raises RecipeError where a walk leaves the finite numbers.
    """
    shape = (_IMAGES, *architecture_of(model_config).sample_shape(model_config))
    guidance = Guidance(settings.guidance, shape[1])
    own_seed = derived_seed("sensitivity", seed)
    rows = condition_rows(model_config, conditions, guided=guidance.copies == 2)(_IMAGES, own_seed)
    parts = torch.arange(_IMAGES).tensor_split(
        calls_per_step(model_config, _IMAGES * guidance.copies)
    )

    def predicted(images: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.cat([predicted_part(images, timestep, part) for part in parts if len(part)])

    def predicted_part(
        images: torch.Tensor, timestep: torch.Tensor, part: torch.Tensor
    ) -> torch.Tensor:
        own_rows = torch.cat([part + copy * _IMAGES for copy in range(guidance.copies)])
        both = images[part].repeat(guidance.copies, 1, 1, 1)
        conditions = {name: value[own_rows].to(device) for name, value in rows.items()}
        prediction = predict(teacher, model_config, both, timestep.to(device), conditions)
        return guidance.combined(prediction)

    def walked(known: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The image that begins with these predictions, and all predictions."""
        walk = SamplingWalk(
            scheduler_config, settings.num_steps, shape, own_seed, settings.eta, device
        )
        predictions = list(known)
        for step in range(num_steps):
            images = walk.model_input()  # schedulers remember that they were asked
            if step == len(predictions):
                predictions.append(predicted(images, walk.timestep))
            walk.advance(predictions[step])
        if not bool(walk.sample.isfinite().all()):
            raise RecipeError(
                "The full-precision model's images are not finite",
                where="sampling",
                why=f"Guidance is {settings.guidance}, eta {settings.eta}",
                fix="Sample from the checkpoint with these first; lower the guidance",
            )
        return walk.sample, predictions

    num_steps = len(sampling_schedule(scheduler_config, settings.num_steps).entries)
    probes = probed_steps(num_steps)
    progress.start("sensitivity", 1 + len(probes))
    image, predictions = walked(())
    progress.advance()
    # Not the noise that the walks begin with: a model predicts that, and its errors do not.
    generator = torch.Generator().manual_seed(derived_seed("error", seed))
    noise = torch.randn(shape, generator=generator).to(device)
    measured = []
    for probe in probes:
        prediction = predictions[probe].clone()
        size = _root_mean_square(prediction[:, : shape[1]]).clamp_min(_LEAST_PREDICTION)
        error = _RELATIVE_ERROR * size * noise
        prediction[:, : shape[1]] += error
        changed, _ = walked([*predictions[:probe], prediction])
        measured.append(float(_root_mean_square(changed - image) / _root_mean_square(error)))
        progress.advance()
    return _interpolated(probes, measured, num_steps)


def _root_mean_square(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()


def _interpolated(probes: Sequence[int], measured: Sequence[float], steps: int) -> torch.Tensor:
    """Geometrically, as sensitivities span orders of magnitude; a step that changes nothing at
    all counts as one that changes next to nothing."""
    least = max(max(measured) * np.finfo(np.float32).eps, np.finfo(np.float32).tiny)
    logarithms = np.log(np.maximum(measured, least))
    return torch.from_numpy(np.exp(np.interp(range(steps), probes, logarithms))).float()
