"""About how long an export will take on this machine, and how much memory at its peak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of, model_arguments
from ..core.integer_reference import input_channels
from ..core.layers import geometry_of
from ..core.plane_fit import CHUNK_ELEMENTS
from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..schedulers import SamplingSchedule
from ..training.calibration import SAMPLES_PER_STEP, PatchQuota
from ..training.condition_rows import drawn_conditions
from ..training.trajectories import calls_per_step
from .size import SizeForecast, quantizable
from .speed import MachineSpeed
from .work import CallWork, ModelWork, count_calls, count_work

PROGRAM_BYTES = 500 << 20
"""Python with torch and diffusers."""
_FIT_BYTES_PER_WEIGHT = 180
"""Memory of a fit for each weight of the block it handles at once."""
_EXACT = 3
"""A call of the quantised model in its integers, in float64, takes so many of full precision."""
_UNCERTAINTY = 1.6
"""Times are given from one part in this to this many times: layers are not the measured sample, and
other programs run."""


@dataclass(frozen=True)
class Span:
    """From ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def about(cls, value: float) -> Span:
        """The span of an estimated time."""
        return cls(value / _UNCERTAINTY, value * _UNCERTAINTY)


@dataclass(frozen=True)
class CostForecast:
    """Estimates. Times are seconds; ``peak_bytes`` is the largest resident memory of the process;
    ``macs_per_image`` are multiplications of one call of the model for one image."""

    calibrate_seconds: Span
    quantize_seconds: Span
    peak_bytes: int
    macs_per_image: int


def forecast_cost(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    schedule: SamplingSchedule,
    speed: MachineSpeed,
    size: SizeForecast,
) -> CostForecast:
    """Time and memory of calibrating and quantising by ``plan``.

    Lowering is not in it. Raises what the model raises if it cannot run without data.
    """
    images = recipe.calibration_images
    at_once = -(-images // calls_per_step(model_config, images))
    work = work_of_call(model, model_config, plan, at_once)
    rows = len(schedule.timesteps)
    call = (
        work.macs * speed.per_mac
        + work.moved * speed.per_moved
        + work.layer_inputs * speed.per_recorded
    )
    parts = {layer.name: layer.parts for layer in size.layers}
    fit = sum(
        speed.fits[choices].seconds(
            quantizable(model, name).weight.numel(),
            parts.get(name, 1) * len(quantizable(model, name).weight),
        )
        for name, choices in plan.layers.items()  # those too that a table is to stand for
    )
    tables = sum(parts.get(name, 1) for name in plan.layers) * rows * speed.per_table_row
    walk = len(schedule.entries) * images / at_once * call
    corrects = recipe.bias_correction and not recipe.training.updates
    statistics = input_statistics_bytes(model, model_config, plan, recipe, schedule)
    fitting = min(CHUNK_ELEMENTS, max(layer.weights for layer in size.layers))
    # Layers are let go as they are packed, so packed weights take the place of full-precision ones.
    peak = size.fp32_bytes + statistics + max(work.peak_bytes, fitting * _FIT_BYTES_PER_WEIGHT)
    return CostForecast(
        calibrate_seconds=Span.about(walk),
        quantize_seconds=Span.about(fit + tables + (_EXACT * walk if corrects else 0)),
        peak_bytes=PROGRAM_BYTES + peak,
        macs_per_image=work.macs // at_once,
    )


def work_of_call(
    model: nn.Module, model_config: Mapping[str, Any], plan: LayerPlan, images: int
) -> ModelWork:
    """What one call of a diffusers model for a batch of ``images`` costs."""
    return count_work(model, plan.layers, _arguments(model_config, images))


def calls_of_modules(
    model: nn.Module, model_config: Mapping[str, Any], modules: Iterable[str]
) -> dict[str, CallWork]:
    """What the first calls of some modules cost in a call of a diffusers model for one image."""
    return count_calls(model, modules, _arguments(model_config, 1))


def _arguments(model_config: Mapping[str, Any], images: int) -> dict[str, Any]:
    sample = torch.empty(images, *architecture_of(model_config).sample_shape(model_config))
    arguments = model_arguments(
        model_config, sample, torch.zeros(images), drawn_conditions(model_config, images, 0)
    )
    return {**arguments, "return_dict": False}


def input_statistics_bytes(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    schedule: SamplingSchedule,
) -> int:
    """Of all layers' ranges per channel, samples with their channels, and input rows."""
    rows, images = len(schedule.timesteps), recipe.calibration_images
    quota = PatchQuota.of(len(schedule.entries), calls_per_step(model_config, images))
    total = 0
    for name in plan.layers:
        module = quantizable(model, name)
        conv, columns = geometry_of(module), module.weight[0].numel()
        total += 8 * rows * input_channels(columns, conv) + SAMPLES_PER_STEP * (4 * rows + 8)
        if conv is None or conv.group == 1:
            total += 4 * quota.rows * columns
    return total
