"""The whole forecast of an export, for ``--dry-run``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..architectures import predicted_channels
from ..core.temporal import unread_layers
from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..schedulers import sampling_schedule
from ..temporal.cache_plan import plan_cache
from .cost import CostForecast, forecast_cost
from .parts import forecast_split
from .reconstruction import ReconstructionForecast, forecast_reconstruction
from .size import CachedShapes, SizeForecast, forecast_size, with_votes
from .speed import measure_speed, measure_training
from .training import TrainingForecast, forecast_training


@dataclass(frozen=True)
class ExportForecast:
    """The plan with its sizes and costs.

    ``cost`` is None if the model cannot be counted without running it, and ``cost_unknown`` says
    why; ``training`` and ``reconstruction`` are None then, and where nothing is trained, or learned
    before training.
    """

    plan: LayerPlan
    size: SizeForecast
    cost: CostForecast | None
    training: TrainingForecast | None
    cost_unknown: str | None
    reconstruction: ReconstructionForecast | None = None


def forecast_export(
    model: nn.Module,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    num_steps: int,
) -> ExportForecast:
    """Sizes from shapes alone, costs from a few seconds of measuring this machine.

    Of temporal features all that can be cached are taken for cached.

    Args:
        model: the full-precision model, on any device; the meta device will do.
        model_config: its diffusers config.
        scheduler_config: of the sampler that calibrates.
        plan: from ``plan_layers``.
        recipe: the method's choices.
        num_steps: sampler steps.
    """
    schedule = sampling_schedule(scheduler_config, num_steps)
    speed, rows = measure_speed(plan.layers.values()), len(schedule.timesteps)
    biases = predicted_channels(model_config) if recipe.bias_correction else None
    size = forecast_size(model, plan, rows, bias_channels=biases)
    try:
        cached = cached_shapes(model, model_config, rows, recipe)
        split = forecast_split(model, model_config, plan, recipe)
        size = with_votes(
            *(
                forecast_size(model, plan, rows, cached=cached, parts=parts, bias_channels=biases)
                for parts in (split.least, split.most)
            )
        )
        cost = forecast_cost(model, model_config, plan, recipe, schedule, speed, size)
        training = reconstruction = None
        if recipe.takes_long:
            trained = measure_training(speed)
        if recipe.is_reconstructed:
            removed = () if cached is None else cached.removed
            reconstruction = forecast_reconstruction(
                model, model_config, plan, recipe, schedule, speed, trained, size, split, removed
            )
        if recipe.training.updates:
            training = forecast_training(
                model, model_config, plan, recipe, schedule, speed, trained, size
            )
    except Exception as error:  # models raise anything when their values are not there
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return ExportForecast(plan, size, None, None, reason)
    return ExportForecast(plan, size, cost, training, None, reconstruction)


def cached_shapes(
    model: nn.Module, model_config: Mapping[str, Any], table_rows: int, recipe: Recipe
) -> CachedShapes | None:
    """The largest table that the recipe allows; raises what the model raises without data."""
    if recipe.cache is None:
        return None
    plan = plan_cache(model, model_config, table_rows, recipe.cache)
    if not plan.widths:
        return None
    removed = unread_layers(plan.block.tape, list(plan.widths))
    return CachedShapes(plan.rows, sum(plan.widths.values()), removed)
