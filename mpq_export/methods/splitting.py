"""Which layers become sums of parts, and the shifts of their channels.

A concatenation's halves are layers of their own. Where channels have shifts, those of a layer span
``8 - a`` at most, as the contract wants it; channels beyond that are another part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.layers import Quantizable, geometry_of
from ..progress import ProgressReporter
from ..reconstruction.choices import PowerOfTwoChoices
from ..reconstruction.concatenations import concatenated_inputs
from ..reconstruction.finished import FinishedParts
from ..reconstruction.walk import CalibrationWalk, ChosenImages, replay
from ..temporal.reconstruction import whole_block
from ..training.calibration import InputStatistics
from ..training.interruption import leave_if, stop_wish
from ..training.seeds import derived_seed
from .channel_votes import VotingLayer, electorate_of, voted_parts
from .layer_parts import Part, most_windows, parts_layout, read_parts, written_parts
from .plan import LayerPlan
from .recipe import Recipe

_DOING = "votes were counted"


def splittable_layers(
    model: nn.Module, model_config: Mapping[str, Any], plan: LayerPlan, recipe: Recipe
) -> list[str]:
    """The layers that may become sums: none at 8 bits, no grouped convolutions, and none of the
    temporal block where the recipe runs that layer by layer, in which one of several parts has no
    place."""
    if not recipe.splits_layers:
        return []
    whole: Collection[str] = ()
    if recipe.cache is not None or recipe.temporal_rounding is not None:
        whole = whole_block(model, model_config, 1).read_layers
    return [
        name
        for name, own in plan.layers.items()
        if name not in whole and own.bits.weight < 8 and not _is_grouped(model, name)
    ]


def voting_layers(names: Sequence[str], choices: PowerOfTwoChoices | None) -> list[str]:
    """Those of the layers whose channels may have shifts."""
    if choices is None:
        return []
    return [name for name in names if any(fnmatchcase(name, p) for p in choices.match)]


def split_layers(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    plan: LayerPlan,
    statistics: Mapping[str, InputStatistics],
    scales: Mapping[str, torch.Tensor],
    recipe: Recipe,
    seed: int,
    finished: FinishedParts,
    progress: ProgressReporter,
) -> dict[str, list[Part]]:
    """The parts of every layer that has several, or shifts in its only one.

    A concatenation's half, or a layer, keeps one step for all its channels where the shifts that
    were voted for would leave more error. Votes that an earlier run has counted are taken from
    ``finished``, others kept there. Raises Interrupted on Ctrl-C or SIGTERM.
    """
    names = splittable_layers(model, model_config, plan, recipe)
    cuts: dict[str, list[int]] = {}
    if recipe.split_concatenations:
        one = ChosenImages(walk.steps[0], torch.arange(1))
        cuts = concatenated_inputs(model, lambda: replay(model, model_config, one), names)
        if not cuts:
            progress.note("split_concatenations: no layer reads a concatenation, none is split")
    halves = {name: _halves(cuts.get(name, [statistics[name].low.shape[1]])) for name in names}
    result = {name: [Part.unshifted(half) for half in own] for name, own in halves.items()}
    if recipe.power_of_two is not None:
        voting = voting_layers(names, recipe.power_of_two)
        if not voting:
            patterns = ", ".join(recipe.power_of_two.match)
            progress.note(f"power_of_two: nothing that can be split matches {patterns}, none votes")
        progress.start("count votes", len(voting) * len(walk.steps))
        with stop_wish() as wished:
            votes = _Votes(
                model, model_config, walk, recipe.power_of_two, seed, finished, progress, wished
            )
            for name in voting:
                module = cast(Quantizable, model.get_submodule(name))
                layer = VotingLayer(module, plan.layers[name], statistics[name], scales.get(name))
                result[name] = votes.parts(name, layer, halves[name])
            leave_if(wished, _DOING)
    return {name: parts for name, parts in result.items() if len(parts) > 1 or parts[0].shift.any()}


@dataclass(frozen=True)
class _Votes:
    """Elections, layer by layer."""

    model: nn.Module
    model_config: Mapping[str, Any]
    walk: CalibrationWalk
    choices: PowerOfTwoChoices
    seed: int
    finished: FinishedParts
    progress: ProgressReporter
    wished: Callable[[], bool]

    def parts(
        self, name: str, layer: VotingLayer, halves: Sequence[NDArray[np.int64]]
    ) -> list[Part]:
        """The parts of a layer, counted now or by an earlier run."""
        channels, bits = layer.seen.low.shape[1], layer.choices.bits.activation
        most = sum(most_windows(len(half), self.choices.largest_shift, bits) for half in halves)
        known = self.finished.load(f"votes {name}", parts_layout(channels, most, bits))
        if known is not None:
            self.progress.advance(len(self.walk.steps))
            return read_parts(known)
        electorate = electorate_of(
            layer, self.model, self.model_config, self.walk, self.choices,
            derived_seed(f"votes of {name}", self.seed), self._on_step,
        )  # fmt: skip
        parts = voted_parts(layer, halves, electorate, self.choices)
        self.finished.save(f"votes {name}", written_parts(parts, channels))
        return parts

    def _on_step(self) -> None:
        leave_if(self.wished, _DOING)
        self.progress.advance()


def _halves(widths: Sequence[int]) -> list[NDArray[np.int64]]:
    """The channels of every tensor of a concatenation, or of the only one."""
    return [np.arange(a, b) for a, b in pairwise(np.cumsum([0, *widths]))]


def _is_grouped(model: nn.Module, name: str) -> bool:
    conv = geometry_of(cast(Quantizable, model.get_submodule(name)))
    return conv is not None and conv.group > 1
