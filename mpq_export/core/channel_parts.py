"""Layers that are sums of parts, each of some of the input channels.

A part is a packed layer of its own: with its own levels, activation tables and factors. So the two
halves of a concatenation have steps of their own, and channels whose shifts do not fit into one
layer are put into several. The parts of module ``m`` are the layers ``m.0``, ``m.1`` and so on;
their outputs are added in this order, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .integer_reference import PackedLayer
from .planes import ContractError, Int32


def part_name(module: str, place: int) -> str:
    """The layer that is a module's part."""
    return f"{module}.{place}"


def module_of(part: str) -> str:
    """The module that a part belongs to."""
    return part.rpartition(".")[0]


def parts_by_module(channels: Mapping[str, Int32]) -> dict[str, list[str]]:
    """The parts of every module that has some, in the order in which they are added."""
    result: dict[str, list[str]] = {}
    for name in channels:
        result.setdefault(module_of(name), []).append(name)
    return result


def check_parts(layers: Mapping[str, PackedLayer], channels: Mapping[str, Int32]) -> None:
    """Raise ContractError unless the parts of every module are two or more, numbered from 0 in the
    order of ``layers``, and share its input channels out; ``channels`` by part, int32 ``[I]``."""
    for name, own in channels.items():
        layer = layers[name]
        if own.dtype != np.int32 or own.shape != (layer.input_channels,):
            raise ContractError(f"{name}: channels are not int32 [{layer.input_channels}]")
        if np.any(np.diff(own.astype(np.int64)) <= 0):
            raise ContractError(f"{name}: channels do not ascend")
        if layer.conv is not None and layer.conv.group > 1:
            raise ContractError(f"{name}: a grouped convolution has no parts")
    ordered = {name: channels[name] for name in layers if name in channels}
    for module, parts in parts_by_module(ordered).items():
        if parts != [part_name(module, place) for place in range(len(parts))] or len(parts) < 2:
            raise ContractError(f"{module}: its parts are not numbered from 0")
        if module in layers:
            raise ContractError(f"{module} is a layer and has parts")
        together = np.sort(np.concatenate([channels[name] for name in parts]))
        if not np.array_equal(together, np.arange(len(together))):
            raise ContractError(f"{module}: its parts do not share the channels out")
        first = layers[parts[0]]
        for name in parts[1:]:
            if layers[name].conv != first.conv or layers[name].weight.rows != first.weight.rows:
                raise ContractError(f"{module}: its parts are layers of different kinds")
