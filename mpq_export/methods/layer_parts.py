"""Parts of a layer's input channels, with their shifts: what was seen of them, and them as tensors
that a run keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.layers import part_weights
from ..reconstruction.finished import Layout, TensorLayout
from ..training.calibration import InputStatistics

_PLACE, _SHIFT = "place", "shift"


@dataclass(frozen=True)
class Part:
    """Some input channels of a layer, int32 ``[n]`` ascending, with their shifts, int8 ``[n]``."""

    channels: NDArray[np.int32]
    shift: NDArray[np.int8]

    @classmethod
    def unshifted(cls, channels: NDArray[np.integer]) -> Part:
        """Channels that all have the step of their layer."""
        return cls(channels.astype(np.int32), np.zeros(len(channels), np.int8))


def shift_room(act_bits: int) -> int:
    """How far the shifts inside one layer may span: a code of ``act_bits`` bits that is shifted
    stays in eight."""
    return 8 - act_bits


def shift_windows(
    shifts: NDArray[np.int64], room: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    """Places whose shifts span ``room`` at most, ascending, with what is left of their shifts.

    ``shifts`` ``[n]`` begin with 0; what all of a window share is left to its table.
    """
    result = []
    for window in np.unique(shifts // (room + 1)):
        places = np.flatnonzero(shifts // (room + 1) == window)
        own = shifts[places]
        result.append((places, (own - own.min()).astype(np.int8)))
    return result


def most_windows(channels: int, largest_shift: int, act_bits: int) -> int:
    """Into how many parts the shifts 0 .. ``largest_shift`` of so many channels can fall."""
    return min(channels, largest_shift // (shift_room(act_bits) + 1) + 1)


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


def written_parts(parts: Sequence[Part], channels: int) -> dict[str, torch.Tensor]:
    """The number of the part and the shift of every channel."""
    place, shift = torch.zeros(channels, dtype=torch.int32), torch.zeros(channels, dtype=torch.int8)
    for number, part in enumerate(parts):
        own = torch.from_numpy(part.channels.astype(np.int64))
        place[own], shift[own] = number, torch.from_numpy(part.shift)
    return {_PLACE: place, _SHIFT: shift}


def parts_layout(channels: int, most_parts: int, act_bits: int) -> Layout:
    """Of what :func:`written_parts` gives for a layer of so many channels."""
    return {
        _PLACE: TensorLayout(torch.int32, (channels,), 0, most_parts - 1),
        _SHIFT: TensorLayout(torch.int8, (channels,), 0, shift_room(act_bits)),
    }


def read_parts(tensors: Mapping[str, torch.Tensor]) -> list[Part]:
    """The parts that were written, in their order."""
    place, shift = (tensors[key].numpy() for key in (_PLACE, _SHIFT))
    parts = [np.flatnonzero(place == number) for number in np.unique(place)]
    return [Part(own.astype(np.int32), shift[own].astype(np.int8)) for own in parts]
