"""About how long training will take on this machine, and how much memory at its peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..core.integer_reference import ConvGeometry
from ..core.layers import geometry_of
from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..schedulers import SamplingSchedule
from ..training.choices import Trained, TrainingChoices
from ..training.error_sensitivity import walked_predictions
from ..training.output_bias import ROUNDS
from .cost import PROGRAM_BYTES, Span, work_of_call
from .size import SizeForecast, quantizable
from .speed import MachineSpeed, TrainingSpeed
from .work import ModelWork

_BACKWARD = 2
"""A backward pass has twice the products of the forward."""
_MOMENTS = 2
"""Of Adam, beside each gradient."""
_KEPT_PER_WEIGHT, _KEPT_PER_INPUT = 6, 5
"""Bytes that a rounding keeps until the backward pass: integers, places, and what is clamped."""
_SEARCH_BYTES = 8
"""Of every weight of the layer that is being rounded."""


@dataclass(frozen=True)
class TrainingForecast:
    """Estimates for one process: seconds of all updates, of what precedes and what follows them,
    bytes of the largest resident memory; ``images_per_update`` are seen by teacher and student at
    once."""

    updates: int
    images_per_update: int
    seconds: Span
    peak_bytes: int


def forecast_training(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    schedule: SamplingSchedule,
    speed: MachineSpeed,
    training_speed: TrainingSpeed,
    size: SizeForecast,
) -> TrainingForecast:
    """Time and memory of training by ``recipe`` where the model is computed on the CPU.

    Relation losses are not in it, which are small beside the model. Raises what the model raises
    if it cannot run without data.
    """
    choices = recipe.training
    images = choices.groups * choices.images_per_group * (1 if recipe.guidance == 1 else 2)
    work = work_of_call(model, model_config, plan, images)
    weights = sum(layer.weights for layer in size.layers)
    branches = _branch_weights(model, plan, choices)
    call = work.macs * speed.per_mac + work.moved * speed.per_moved
    rounding = weights * training_speed.per_weight + work.layer_inputs * training_speed.per_input
    # A branch is multiplied out to the whole matrix.
    merging = (1 + _BACKWARD) * _merging_macs(model, plan, choices) * speed.per_mac
    again = 1 if choices.gradient_checkpointing else 0
    update = call + (1 + _BACKWARD + again) * call + rounding + merging
    steps = len(schedule.entries)
    corrected = choices.output_bias or recipe.bias_correction
    bias = ROUNDS * steps * (2 * call + rounding) if corrected else 0.0
    per_image = call / (choices.groups * choices.images_per_group)
    weighing = walked_predictions(steps) * per_image if choices.error_power else 0.0
    return TrainingForecast(
        updates=choices.updates,
        images_per_update=images,
        seconds=Span.about(choices.updates * update + bias + weighing),
        peak_bytes=PROGRAM_BYTES
        + _state_bytes(choices, size, weights, branches)
        + _kept_bytes(choices, work, weights)
        + _SEARCH_BYTES * max(layer.weights for layer in size.layers),
    )


def _state_bytes(choices: TrainingChoices, size: SizeForecast, weights: int, branches: int) -> int:
    """Teacher, student, gradients and the optimiser's moments."""
    if choices.trained is Trained.FULL:
        return (2 + 1 + _MOMENTS) * size.fp32_bytes
    return size.fp32_bytes + 4 * weights + (2 + _MOMENTS) * 4 * branches


def _kept_bytes(choices: TrainingChoices, work: ModelWork, weights: int) -> int:
    """What the forward pass leaves for the backward pass."""
    if choices.gradient_checkpointing:
        return 2 * work.peak_bytes + _KEPT_PER_WEIGHT * weights
    return 4 * work.moved + _KEPT_PER_INPUT * work.layer_inputs + _KEPT_PER_WEIGHT * weights


def _branch_weights(model: nn.Module, plan: LayerPlan, choices: TrainingChoices) -> int:
    """Parameters of all low-rank branches."""
    return sum(
        taps * rank * (rows + channels)
        for taps, rows, channels, rank in _branches(model, plan, choices)
    )


def _merging_macs(model: nn.Module, plan: LayerPlan, choices: TrainingChoices) -> int:
    """Products that give the weights that branches stand for."""
    return sum(
        taps * rank * rows * channels
        for taps, rows, channels, rank in _branches(model, plan, choices)
    )


def _branches(
    model: nn.Module, plan: LayerPlan, choices: TrainingChoices
) -> list[tuple[int, int, int, int]]:
    """Kernel taps, rows, input channels and rank of every layer that has a branch."""
    if choices.trained is Trained.FULL:
        return []
    result = []
    for name, layer in plan.layers.items():
        if layer.bits.weight < 8:
            module = quantizable(model, name)
            taps = _taps(geometry_of(module))
            rows, channels = module.weight.shape[:2]
            result.append((taps, rows, channels, min(choices.rank, rows, channels)))
    return result


def _taps(conv: ConvGeometry | None) -> int:
    return 1 if conv is None else conv.kernel_shape[0] * conv.kernel_shape[1]
