"""Which layers become sums of parts, and the shifts of their channels.

A concatenation's halves are layers of their own. Where channels have shifts, those of a layer span
``8 - a`` at most, as the contract wants it; channels beyond that are another part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.activation_quantizer import channel_energy, table_error, table_fit
from ..core.layers import Quantizable, geometry_of, part_weights, weight_matrix
from ..errors import Interrupted
from ..progress import ProgressReporter
from ..reconstruction.calls import record_calls, samples_per_step
from ..reconstruction.choices import PowerOfTwoChoices
from ..reconstruction.concatenations import concatenated_inputs
from ..reconstruction.finished import FinishedParts, Layout
from ..reconstruction.power_of_two import vote_shifts
from ..reconstruction.scaling import scaled_weights
from ..reconstruction.walk import CalibrationWalk
from ..training.calibration import InputStatistics
from ..training.interruption import stop_wish
from ..training.seeds import derived_seed
from .plan import LayerChoices, LayerPlan
from .recipe import Recipe

_PLACE, _SHIFT = "place", "shift"


@dataclass(frozen=True)
class Part:
    """Some input channels of a layer, int32 ``[n]`` ascending, with their shifts, int8 ``[n]``."""

    channels: NDArray[np.int32]
    shift: NDArray[np.int8]


def split_layers(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    plan: LayerPlan,
    statistics: Mapping[str, InputStatistics | None],
    scales: Mapping[str, torch.Tensor],
    recipe: Recipe,
    whole: Collection[str],
    seed: int,
    finished: FinishedParts,
    progress: ProgressReporter,
) -> dict[str, list[Part]]:
    """The parts of every layer that has several, or shifts in its only one.

    Layers at 8 bits, grouped convolutions and those in ``whole`` stay whole. A concatenation's
    half, or a layer, keeps one step for all its channels where the shifts that were voted for would
    leave more error. Votes that an earlier run has counted are taken from ``finished``, others kept
    there. Raises Interrupted on Ctrl-C or SIGTERM.
    """
    names = [
        name
        for name, own in plan.layers.items()
        if name not in whole and _can_split(model, name, own)
    ]
    cuts: dict[str, list[int]] = {}
    if recipe.split_concatenations:
        cuts = concatenated_inputs(model, model_config, walk, names)
    choices = recipe.power_of_two
    voting = [] if choices is None else [name for name in names if _matches(name, choices)]
    result: dict[str, list[Part]] = {}
    progress.start("split", len(names))
    with stop_wish() as wished:
        for name in names:
            if wished():
                raise Interrupted("Stopped while layers were split", fix="Go on with --resume")
            seen = statistics[name]
            assert seen is not None, "layers that do not run have left the plan"
            channels = seen.low.shape[1]
            starts = np.cumsum([0, *cuts.get(name, [channels])])
            halves = [np.arange(a, b) for a, b in pairwise(starts)]
            if choices is None or name not in voting:
                unshifted = [np.zeros(len(half), np.int8) for half in halves]
                parts = [
                    Part(half.astype(np.int32), shift)
                    for half, shift in zip(halves, unshifted, strict=True)
                ]
            elif (known := finished.load(f"votes {name}", _layout(channels))) is not None:
                parts = _read_parts(known)
            else:
                x, entries = _samples(model, model_config, walk, name, seed)
                scaled = x / scales[name][:, None] if name in scales else x
                parts = [
                    part
                    for half in halves
                    for part in _voted(
                        _layer(model, name), half, seen, scales.get(name), scaled, entries,
                        choices, plan.layers[name],
                    )
                ]  # fmt: skip
                finished.save(f"votes {name}", _written_parts(parts, channels))
            if len(parts) > 1 or parts[0].shift.any():
                result[name] = parts
            progress.advance()
    return result


def _written_parts(parts: Sequence[Part], channels: int) -> dict[str, torch.Tensor]:
    """The number of the part and the shift of every channel."""
    place, shift = torch.zeros(channels, dtype=torch.int32), torch.zeros(channels, dtype=torch.int8)
    for number, part in enumerate(parts):
        own = torch.from_numpy(part.channels.astype(np.int64))
        place[own], shift[own] = number, torch.from_numpy(part.shift)
    return {_PLACE: place, _SHIFT: shift}


def _layout(channels: int) -> Layout:
    return {_PLACE: (torch.int32, (channels,)), _SHIFT: (torch.int8, (channels,))}


def _read_parts(tensors: Mapping[str, torch.Tensor]) -> list[Part]:
    place, shift = (tensors[key].numpy() for key in (_PLACE, _SHIFT))
    parts = [np.flatnonzero(place == number) for number in np.unique(place)]
    return [Part(own.astype(np.int32), shift[own].astype(np.int8)) for own in parts]


def part_statistics(seen: InputStatistics, channels: NDArray[np.int32]) -> InputStatistics:
    """What was seen of some channels; places of samples that are of others are left out."""
    chosen = torch.from_numpy(channels.astype(np.int64))
    place = torch.full((seen.low.shape[1],), -1)
    place[chosen] = torch.arange(len(chosen))
    own = place[seen.sample_channels]
    patches = seen.patches
    if patches is not None:
        taps = patches.shape[1] // seen.low.shape[1]
        patches = part_weights(patches, taps, channels)
    return InputStatistics(
        seen.low[:, chosen],
        seen.high[:, chosen],
        seen.samples[:, own >= 0],
        own[own >= 0],
        patches,
    )


def _voted(
    module: Quantizable,
    half: NDArray[np.int64],
    seen: InputStatistics,
    tau: torch.Tensor | None,
    x: torch.Tensor,
    entries: torch.Tensor,
    choices: PowerOfTwoChoices,
    layer: LayerChoices,
) -> list[Part]:
    """The parts of a half; ``x`` ``[N, C, L]`` are inputs of the layer divided by tau."""
    bits, fit = layer.bits.activation, table_fit(layer.tables)
    channels = half.astype(np.int32)
    conv, weights = geometry_of(module), weight_matrix(module)
    own = part_statistics(seen, channels)
    chosen = torch.from_numpy(half)
    gain = torch.ones(len(half)) if tau is None else tau[chosen]
    taps = weights.shape[1] // seen.low.shape[1]
    scaled = scaled_weights(part_weights(weights, taps, channels), gain, conv)

    def table_and_error(part: NDArray[np.int64], shift: torch.Tensor) -> tuple[Any, float]:
        """Of some of the half's channels, whose inputs are divided by ``2^shift``."""
        few = part_statistics(own, part.astype(np.int32))
        factor = torch.exp2(-shift.float()) / gain[torch.from_numpy(part)]
        columns = part_weights(scaled, taps, part.astype(np.int32))
        energy = channel_energy(columns, conv) * torch.exp2(2 * shift.float())
        samples, importance = few.samples * factor[few.sample_channels], energy[few.sample_channels]
        table = fit(
            samples, importance, (few.low * factor).amin(dim=1), (few.high * factor).amax(dim=1),
            bits,
        )  # fmt: skip
        return table, table_error(samples, importance, table)

    everything = np.arange(len(half))
    plain, error = table_and_error(everything, torch.zeros(len(half)))
    shifts = vote_shifts(
        x[:, chosen],
        entries,
        torch.from_numpy(plain.scale),
        torch.from_numpy(plain.zero_point).float(),
        bits,
        choices.largest_shift,
        choices.agreement,
    )
    windows = _windows((shifts - shifts.min()).numpy(), 8 - bits)
    shifted = [(part, torch.from_numpy(shift)) for part, shift in windows]
    if sum(table_and_error(part, shift)[1] for part, shift in shifted) < error:
        return [Part(channels[part], shift) for part, shift in windows]
    return [Part(channels, np.zeros(len(half), np.int8))]


def _windows(
    shifts: NDArray[np.int64], room: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    """Places whose shifts span ``room`` at most, ascending, with what is left of their shifts."""
    result = []
    for window in np.unique(shifts // (room + 1)):
        places = np.flatnonzero(shifts // (room + 1) == window)
        own = shifts[places]
        result.append((places, (own - own.min()).astype(np.int8)))
    return result


def _samples(
    model: nn.Module, model_config: Mapping[str, Any], walk: CalibrationWalk, name: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All calibration images of every step, as many as memory holds: ``[N, C, L]``, entries
    ``[N]``."""
    module = _layer(model, name)
    wanted = sum(len(step.sample) for step in walk.steps)
    per_step = samples_per_step(model, model_config, walk, module, wanted)
    chosen = walk.chosen(per_step, derived_seed(f"votes of {name}", seed))
    calls = record_calls(model, model_config, chosen, module)
    x = next(iter(calls.inputs.values())).float()
    channels_first = x.flatten(2) if isinstance(module, nn.Conv2d) else _tokens_last(x)
    return channels_first, calls.entries


def _tokens_last(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)


def _can_split(model: nn.Module, name: str, choices: LayerChoices) -> bool:
    conv = geometry_of(_layer(model, name))
    return choices.bits.weight < 8 and (conv is None or conv.group == 1)


def _matches(name: str, choices: PowerOfTwoChoices) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in choices.match)


def _layer(model: nn.Module, name: str) -> Quantizable:
    return cast(Quantizable, model.get_submodule(name))
