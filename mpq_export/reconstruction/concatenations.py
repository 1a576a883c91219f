"""Layers whose input is a concatenation of channels, such as the shortcuts that read what an up
block has computed beside what it skips."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Concatenations(TorchFunctionMode):
    """Remembers the tensors that were put together, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[weakref.ref[torch.Tensor], int, list[int]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.cat, torch.concat, torch.concatenate):
            named = kwargs or {}
            parts = args[0] if args else named["tensors"]
            axis = named.get("dim", named.get("axis", args[1] if len(args) > 1 else 0))
            axis %= result.dim()
            # What is empty adds no channels; torch takes it whatever its shape.
            sizes = [part.shape[axis] for part in parts if part.numel()]
            self._made.append((weakref.ref(result), axis, sizes))
        return result

    def sizes(self, x: torch.Tensor, axis: int) -> list[int]:
        """Of what ``x`` was put together along an axis; empty where it was not."""
        for made, own, sizes in self._made:
            tensor = made()
            if tensor is not None and _same_place(tensor, x) and own == axis:
                return sizes if tensor.shape == x.shape else []
        return []


def _same_place(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors begin at one place of one memory, which may hold no data."""
    return (
        one.untyped_storage()._cdata == other.untyped_storage()._cdata
        and one.storage_offset() == other.storage_offset()
    )


def concatenated_inputs(
    model: nn.Module, run: Callable[[], object], names: Sequence[str]
) -> dict[str, list[int]]:
    """The channels of every part of a layer's input, for layers whose input is a concatenation.

    Args:
        model: on any device, the meta device included.
        run: calls it.
        names: layers of it.
    """
    found: dict[str, list[int]] = {}
    watching = _Concatenations()

    def look(name: str, module: nn.Module, x: torch.Tensor) -> None:
        sizes = watching.sizes(x, 1 if isinstance(module, nn.Conv2d) else x.dim() - 1)
        if len(sizes) > 1:
            found[name] = sizes

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: look(name, module, args[0])
        )
        for name in names
    ]
    try:
        with watching:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
