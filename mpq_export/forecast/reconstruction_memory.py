"""About how much memory what is learned before training takes at its peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..reconstruction import calls, patches
from ..reconstruction.blocks import Block, blocks_of
from ..reconstruction.choices import RoundingChoices
from ..schedulers import SamplingSchedule
from ..temporal.reconstruction import whole_block
from .cost import PROGRAM_BYTES, calls_of_modules, input_statistics_bytes
from .size import SizeForecast, quantizable
from .work import CallWork

_LEARNING_BYTES = 128
"""Of each weight whose rounding is learned: levels, logits, gradients, moments, and what the loss
and the penalty keep until the backward pass; measured are 127."""


def reconstruction_bytes(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    schedule: SamplingSchedule,
    size: SizeForecast,
) -> int:
    """Largest resident memory of the process in the stages before training, on the CPU.

    Where rounding is learned the model stays, and beside it grows one of rounded weights. Raises
    what the model raises if it cannot run without data.
    """
    stages = [0]
    if recipe.scaling is not None or recipe.power_of_two is not None:
        statistics = input_statistics_bytes(model, model_config, plan, recipe, schedule)
        stages.append(statistics + max(patches.MAX_BYTES, calls.MAX_BYTES))
    if recipe.learns_rounding:
        learned = _learned_bytes(model, model_config, plan, recipe, len(schedule.entries))
        stages.append(size.packed_bytes + size.fp32_bytes + learned)
    return PROGRAM_BYTES + size.fp32_bytes + max(stages)


def _learned_bytes(
    model: nn.Module,
    model_config: Mapping[str, Any],
    plan: LayerPlan,
    recipe: Recipe,
    steps: int,
) -> int:
    """Of the block that needs most while its rounding is learned."""
    names = [name for name, bits in plan.bits.items() if bits.weight < 8]
    apart: list[str] = []
    if recipe.temporal_rounding is not None:
        temporal = whole_block(model, model_config, 1).layers
        apart = [name for name in names if name in temporal]
        names = [name for name in names if name not in temporal]
    needed = [_LEARNING_BYTES * _weights(model, apart)]
    if recipe.rounding is not None:
        blocks = {block.name: block for block in blocks_of(model, names)}
        run = calls_of_modules(model, model_config, blocks)
        needed += [
            _block_bytes(model, blocks[name], call, recipe.rounding, steps)
            for name, call in run.items()
        ]
    return max(needed)


def _block_bytes(
    model: nn.Module, block: Block, call: CallWork, choices: RoundingChoices, steps: int
) -> int:
    """Its samples, joined from those of every step while these are still there, the targets, and an
    update's activations beside the weights."""
    sample = 4 * (call.inputs + call.outputs)
    samples = calls.samples_within_memory(choices.samples, steps, sample).count
    targets = 4 * samples * call.outputs
    update = 4 * choices.batch * call.moved + _LEARNING_BYTES * _weights(model, block.layers)
    return targets + samples * sample + max(samples * sample, update)


def _weights(model: nn.Module, names: list[str] | tuple[str, ...]) -> int:
    return sum(quantizable(model, name).weight.numel() for name in names)
