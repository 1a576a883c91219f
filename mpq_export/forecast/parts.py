"""Which layers will be sums of parts, and which of their channels may vote: from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of, model_arguments
from ..core.call_tape import meta_copy
from ..core.integer_reference import input_channels
from ..core.layers import geometry_of
from ..core.planes import WORD_BITS
from ..methods.layer_parts import most_windows, shift_room
from ..methods.plan import LayerPlan
from ..methods.recipe import Recipe
from ..methods.splitting import splittable_layers, voting_layers
from ..reconstruction.concatenations import concatenated_inputs
from ..training.condition_rows import drawn_conditions
from .size import PartShape, quantizable


@dataclass(frozen=True)
class VotingShape:
    """A layer whose channels vote: the values of its input and its output for one image, and the
    channels of every half."""

    inputs: int
    outputs: int
    halves: tuple[int, ...]


@dataclass(frozen=True)
class SplitForecast:
    """What splitting will give.

    Attributes:
        least: the parts of layers that read a concatenation, if no vote shifts a channel.
        most: those of layers whose votes fall as far apart as they can.
        voting: layers that vote.
    """

    least: Mapping[str, Sequence[PartShape]]
    most: Mapping[str, Sequence[PartShape]]
    voting: Mapping[str, VotingShape]

    def tables(self, name: str) -> int:
        """How many activation tables are fitted for a layer's votes at most: those of its halves
        without shifts, and of all parts."""
        return len(self.voting[name].halves) + len(self.most[name])


NOT_SPLIT = SplitForecast({}, {}, {})


def forecast_split(
    model: nn.Module, model_config: Mapping[str, Any], plan: LayerPlan, recipe: Recipe
) -> SplitForecast:
    """The parts that the recipe's splitting and votes can give.

    Args:
        model: on any device; it is not changed.
        model_config: its config.
        plan: of its layers.
        recipe: whose ``split_concatenations`` and ``power_of_two`` count.

    Raises what the model raises if it cannot run without data.
    """
    names = splittable_layers(model, model_config, plan, recipe)
    if not names:
        return NOT_SPLIT
    voting = voting_layers(names, recipe.power_of_two)
    empty, seen = meta_copy(model), dict[str, tuple[int, int]]()

    def look(name: str, x: torch.Tensor, output: torch.Tensor) -> None:
        seen.setdefault(name, (x.numel(), output.numel()))

    handles = [
        empty.get_submodule(name).register_forward_hook(
            lambda _module, args, output, name=name: look(name, args[0], output)
        )
        for name in voting
    ]
    arguments = _one_image(model_config)
    found = concatenated_inputs(empty, lambda: empty(**arguments, return_dict=False), names)
    for handle in handles:
        handle.remove()
    cuts = found if recipe.split_concatenations else {}
    halves = {name: cuts.get(name, [_channels(model, name)]) for name in {*cuts, *voting}}
    least = {name: [PartShape(width) for width in widths] for name, widths in cuts.items()}
    shapes = {name: VotingShape(*sizes, tuple(halves[name])) for name, sizes in seen.items()}
    most = dict(least)
    if recipe.power_of_two is not None:
        for name, shape in shapes.items():
            bits, largest = plan.layers[name].bits.activation, recipe.power_of_two.largest_shift
            taps = quantizable(model, name).weight[0].numel() // _channels(model, name)
            most[name] = [
                part for width in shape.halves for part in _widest(width, taps, largest, bits)
            ]
    return SplitForecast(least, most, shapes)


def _widest(channels: int, taps: int, largest_shift: int, act_bits: int) -> list[PartShape]:
    """The parts of a half that take the most bytes: as many as there can be, their columns spread
    over as many words as they can be, which is one begun in each."""
    parts = most_windows(channels, largest_shift, act_bits)
    words = parts + (taps * channels - parts) // WORD_BITS
    shifted = shift_room(act_bits) > 0
    first = PartShape(channels - parts + 1, shifted, words - parts + 1)
    return [first, *[PartShape(1, shifted, 1)] * (parts - 1)]


def _one_image(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call for one image, without data."""
    sample = torch.empty(1, *architecture_of(model_config).sample_shape(model_config))
    arguments = model_arguments(
        model_config, sample, torch.zeros(1), drawn_conditions(model_config, 1, 0)
    )
    moved: dict[str, Any] = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda tensor: tensor.to("meta"), dict(arguments)
    )
    return moved


def _channels(model: nn.Module, name: str) -> int:
    module = quantizable(model, name)
    return input_channels(module.weight[0].numel(), geometry_of(module))
