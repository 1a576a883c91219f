"""Votes for the shifts of a layer's channels, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..core.activation_quantizer import channel_energy, table_error, table_fit
from ..core.layers import Quantizable, geometry_of, part_weights, weight_matrix
from ..reconstruction.calls import record_calls, samples_of_block
from ..reconstruction.choices import PowerOfTwoChoices
from ..reconstruction.power_of_two import vote_shifts
from ..reconstruction.scaling import scaled_weights
from ..reconstruction.walk import CalibrationWalk
from ..training.calibration import InputStatistics
from .layer_parts import Part, part_statistics, shift_room, shift_windows
from .plan import LayerChoices


@dataclass(frozen=True)
class VotingLayer:
    """A layer whose channels may have shifts.

    Attributes:
        module, choices: itself, and how it is quantised.
        seen: its inputs at calibration, of all channels.
        tau: float32 ``[I]``, what inputs are divided by; None is nothing.
    """

    module: Quantizable
    choices: LayerChoices
    seen: InputStatistics
    tau: torch.Tensor | None


@dataclass(frozen=True)
class Electorate:
    """The inputs that vote: float32 ``[N, C, L]``, divided by tau, and the entries of the
    activation tables that they belong to, int64 ``[N]``."""

    inputs: torch.Tensor
    entries: torch.Tensor


def electorate_of(
    layer: VotingLayer,
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    choices: PowerOfTwoChoices,
    seed: int,
    on_step: Callable[[], None],
) -> Electorate:
    """Calibration images of every step, all of them or as many as the choices and memory allow.

    Args:
        layer: a module of ``model``.
        model: of full precision, with its config.
        walk: trajectories of it.
        choices: of the recipe.
        seed: of which images.
        on_step: called behind every step.
    """
    wanted = min(choices.samples, sum(len(step.sample) for step in walk.steps))
    samples = samples_of_block(model, model_config, walk, layer.module, wanted)
    calls = record_calls(model, model_config, walk.chosen(samples, seed), layer.module, on_step)
    for _ in range(len(walk.steps) - samples.steps):
        on_step()
    x = next(iter(calls.inputs.values())).float()
    x = x.flatten(2) if isinstance(layer.module, nn.Conv2d) else _tokens_last(x)
    return Electorate(x if layer.tau is None else x / layer.tau[:, None], calls.entries)


def voted_parts(
    layer: VotingLayer,
    halves: Sequence[NDArray[np.int64]],
    electorate: Electorate,
    choices: PowerOfTwoChoices,
) -> list[Part]:
    """The parts of every half of a layer's channels, with the shifts that were voted for where
    these leave less error than one step for the half."""
    return [part for half in halves for part in _parts_of(layer, half, electorate, choices)]


def _parts_of(
    layer: VotingLayer,
    half: NDArray[np.int64],
    electorate: Electorate,
    choices: PowerOfTwoChoices,
) -> list[Part]:
    module, seen, tau = layer.module, layer.seen, layer.tau
    bits, fit = layer.choices.bits.activation, table_fit(layer.choices.tables)
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
        electorate.inputs[:, chosen],
        electorate.entries,
        torch.from_numpy(plain.scale),
        torch.from_numpy(plain.zero_point).float(),
        bits,
        choices.largest_shift,
        choices.agreement,
    )
    windows = shift_windows((shifts - shifts.min()).numpy(), shift_room(bits))
    shifted = [(part, torch.from_numpy(shift)) for part, shift in windows]
    if sum(table_and_error(part, shift)[1] for part, shift in shifted) < error:
        return [Part(channels[part], shift) for part, shift in windows]
    return [Part.unshifted(half)]


def _tokens_last(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)
