"""About how long what is learned before training will take on this machine, and how much memory at
its peak."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..reconstruction.blocks import blocks_of
from ..reconstruction.calls import samples_within_memory
from ..schedulers import SamplingSchedule
from ..temporal.reconstruction import whole_block
from .cost import Span, work_of_call
from .parts import NOT_SPLIT, SplitForecast, VotingShape
from .reconstruction_memory import reconstruction_bytes
from .size import SizeForecast, quantizable
from .speed import MachineSpeed, TrainingSpeed

_PASSES = 3
"""An update's: the output, and the gradients of inputs and weights."""
_COMPARED = 3
"""Fits of a layer's table and weights that are compared beside those on the way: of 1, of the
factors of smoothing, of those that were learned."""
_REPLAYS = 2
"""Of a block's samples, by the full-precision and by the rounded model, each to the block alone:
half the model on average."""
_VOTE_PASSES = 9
"""Operators over all values for every step that a sample can vote for; measured are 5 where a
step's samples stay in the processor's cache, and 19 where they do not."""


@dataclass(frozen=True)
class ReconstructionForecast:
    """Estimated seconds of each stage, None where the recipe has none, and bytes of the largest
    resident memory."""

    scaling: Span | None
    rounding: Span | None
    peak_bytes: int
    temporal: Span | None = None
    votes: Span | None = None


def forecast_reconstruction(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    schedule: SamplingSchedule,
    speed: MachineSpeed,
    training_speed: TrainingSpeed,
    size: SizeForecast,
    split: SplitForecast = NOT_SPLIT,
    removed: Collection[str] = (),
) -> ReconstructionForecast:
    """Time and memory of the stages where the model is computed on the CPU; layers that are
    ``removed`` for a table of temporal features learn no scales.

    Raises what the model raises if it cannot run without data.
    """
    names = [name for name, bits in plan.bits.items() if bits.weight < 8]
    scaling = rounding = temporal = None
    if recipe.temporal_rounding is not None:
        block = whole_block(model, model_config, 1).layers
        apart = [name for name in names if name in block]
        names = [name for name in names if name not in block]
        fitted = recipe.temporal_rounding
        numbers = sum(quantizable(model, name).weight.numel() for name in apart)
        products = _PASSES * fitted.batch * numbers * speed.per_mac
        temporal = Span.about(fitted.iterations * (products + numbers * training_speed.per_weight))
    rows = len(schedule.timesteps)
    if recipe.scaling is not None:
        choices = recipe.scaling
        seconds = 0.0
        for name, own in plan.unscaled(removed).layers.items():
            if not own.scaling:
                continue
            module = quantizable(model, name)
            weights, outputs = module.weight.numel(), module.weight.shape[0]
            products = choices.batch * weights * speed.per_mac
            update = _PASSES * products + weights * training_speed.per_weight
            update += choices.batch * weights / outputs * training_speed.per_input
            fit = speed.fits[own].seconds(weights, outputs)
            seconds += choices.iterations * update + (choices.refits + _COMPARED) * fit
            seconds += _COMPARED * rows * speed.per_table_row
        scaling = Span.about(seconds)
    votes = None
    work = work_of_call(model, model_config, plan, 1)
    image = work.macs * speed.per_mac + work.moved * speed.per_moved
    if recipe.power_of_two is not None and split.voting:
        votes = Span.about(
            sum(
                _seconds_of_votes(recipe, schedule, speed, image, shape, split.tables(name))
                for name, shape in split.voting.items()
            )
        )
    if recipe.rounding is not None:
        weights = sum(quantizable(model, name).weight.numel() for name in names)
        blocks = len(blocks_of(model, names))
        learning = recipe.rounding
        update = _PASSES * learning.batch * image + weights * training_speed.per_weight
        replays = _REPLAYS * blocks * learning.samples * image / 2
        rounding = Span.about(learning.iterations * update + replays)
    peak = reconstruction_bytes(model, model_config, plan, recipe, schedule, size)
    return ReconstructionForecast(scaling, rounding, peak, temporal, votes)


def _seconds_of_votes(
    recipe: Recipe,
    schedule: SamplingSchedule,
    speed: MachineSpeed,
    image: float,
    shape: VotingShape,
    tables: int,
) -> float:
    """Of one layer: its samples, by half the model on average, their votes, and the tables that are
    compared."""
    choices, steps = recipe.power_of_two, len(schedule.entries)
    assert choices is not None
    wanted = min(choices.samples, recipe.calibration_images * steps)
    samples = samples_within_memory(wanted, steps, 4 * (shape.inputs + shape.outputs)).count
    passes = _VOTE_PASSES * (1 + choices.largest_shift)
    voting = samples * (image / 2 + passes * shape.inputs * speed.per_moved)
    return voting + tables * len(schedule.timesteps) * speed.per_table_row
