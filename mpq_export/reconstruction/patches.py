"""Rows that meet the weights of layers, from all steps, and which layers share their input."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core.integer_reference import ConvGeometry
from ..core.layers import Quantizable, geometry_of
from ..training.seeds import derived_seed
from .walk import CalibrationWalk, ChosenImages, replay

MAX_BYTES = 1 << 29
"""Of all rows that are held at once; for more the model runs again."""


@dataclass(frozen=True)
class Patches:
    """Rows of one layer's input, float32 ``[m, K]`` in the weight's order of columns, and the
    entry of the activation tables that each belongs to, int64 ``[m]``."""

    rows: torch.Tensor
    entries: torch.Tensor


def record_patches(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    groups: Sequence[Sequence[str]],
    wanted: int,
    images: int,
    seed: int,
) -> Iterator[tuple[Sequence[str], Patches]]:
    """About ``wanted`` rows of the first layer of every group, spread over all steps, of so many
    images of each.

    The model runs once for as many groups as fit into memory. Convolutions have one group of
    channels.
    """
    per_step = -(-wanted // len(walk.steps))
    waiting: list[Sequence[str]] = []
    held = 0
    for group in groups:
        columns = _module(model, group[0]).weight[0].numel()
        size = 4 * columns * per_step * len(walk.steps)
        if waiting and held + size > MAX_BYTES:
            yield from _recorded(model, model_config, walk, waiting, per_step, images, seed)
            waiting, held = [], 0
        waiting.append(group)
        held += size
    if waiting:
        yield from _recorded(model, model_config, walk, waiting, per_step, images, seed)


def shared_inputs(
    model: nn.Module, model_config: Mapping[str, Any], walk: CalibrationWalk, names: Sequence[str]
) -> list[tuple[str, ...]]:
    """The layers, linear ones of one module that are given the very same tensor together: those
    for queries, keys and values.

    Of one module alone: all cross-attention of a model is given the very same text, and factors
    for all of it together would be worse for each.
    """
    groups: dict[str, list[str]] = {}
    seen: list[tuple[weakref.ref[torch.Tensor], str]] = []

    def look(name: str, module: nn.Module, x: torch.Tensor) -> None:
        if any(name in members for members in groups.values()):
            return
        owner = None
        if isinstance(module, nn.Linear):
            parent = name.rpartition(".")[0]
            owner = next(
                (
                    first
                    for tensor, first in seen
                    if tensor() is x and first.rpartition(".")[0] == parent
                ),
                None,
            )
        if owner is None:
            seen.append((weakref.ref(x), name))
        groups.setdefault(name if owner is None else owner, []).append(name)

    handles = [
        _module(model, name).register_forward_pre_hook(
            lambda module, args, name=name: look(name, module, args[0])
        )
        for name in names
    ]
    try:
        replay(model, model_config, ChosenImages(walk.steps[0], torch.arange(1)))
    finally:
        for handle in handles:
            handle.remove()
    return [tuple(members) for members in groups.values()]


def patches_of(
    x: torch.Tensor, conv: ConvGeometry | None, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Random rows ``[count, K]`` of a layer's input ``x`` that meet its weight matrix."""
    if conv is None:
        rows = x.reshape(-1, x.shape[-1])
        return rows[torch.randint(0, len(rows), (count,), generator=generator)]
    top, left, bottom, right = conv.pads
    padded = nn.functional.pad(x, (left, right, top, bottom))
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_shape, conv.strides, conv.dilations
    # A view of all windows: only the chosen ones are copied.
    windows = padded.unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)
    places = [
        torch.randint(0, windows.shape[axis], (count,), generator=generator) for axis in (0, 2, 3)
    ]
    chosen = windows[places[0], :, places[1], places[2]][:, :, ::dh, ::dw]
    return chosen.permute(0, 2, 3, 1).flatten(1)


def _recorded(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    groups: Sequence[Sequence[str]],
    per_step: int,
    images: int,
    seed: int,
) -> Iterator[tuple[Sequence[str], Patches]]:
    # A layer's rows depend on nothing but its name: whatever else is recorded, or was before.
    generators = {
        group[0]: torch.Generator().manual_seed(derived_seed(f"patches of {group[0]}", seed))
        for group in groups
    }
    rows: dict[str, list[torch.Tensor]] = {group[0]: [] for group in groups}
    begun = 0

    def keep(name: str, module: nn.Module, x: torch.Tensor) -> None:
        if len(rows[name]) < begun:  # the first call of a step
            assert isinstance(module, Quantizable)
            taken = patches_of(x.float(), geometry_of(module), per_step, generators[name])
            rows[name].append(taken)

    handles = [
        _module(model, group[0]).register_forward_pre_hook(
            lambda module, args, name=group[0]: keep(name, module, args[0])
        )
        for group in groups
    ]
    chosen = walk.chosen(walk.of_every_step(images), derived_seed("images of patches", seed))
    try:
        for part in chosen:
            begun += 1
            replay(model, model_config, part)
    finally:
        for handle in handles:
            handle.remove()
    entries = torch.tensor([part.step.entry for part in chosen]).repeat_interleave(per_step)
    for group in groups:
        yield group, Patches(torch.cat(rows.pop(group[0])), entries)


def _module(model: nn.Module, name: str) -> Quantizable:
    module = model.get_submodule(name)
    assert isinstance(module, Quantizable)
    return module
