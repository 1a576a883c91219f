"""Layers whose input is a concatenation of channels, such as the shortcuts that read what an up
block has computed beside what it skips."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .walk import CalibrationWalk, ChosenImages, replay


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
            sizes = [part.shape[axis] for part in parts]
            self._made.append((weakref.ref(result), axis, sizes))
        return result

    def sizes(self, x: torch.Tensor, axis: int) -> list[int]:
        """Of what ``x`` was put together along an axis; empty where it was not."""
        for made, own, sizes in self._made:
            tensor = made()
            if tensor is not None and tensor.data_ptr() == x.data_ptr() and own == axis:
                return sizes if tensor.shape == x.shape else []
        return []


def concatenated_inputs(
    model: nn.Module, model_config: Mapping[str, Any], walk: CalibrationWalk, names: Sequence[str]
) -> dict[str, list[int]]:
    """The channels of every part of a layer's input, for layers whose input is a concatenation."""
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
            replay(model, model_config, ChosenImages(walk.steps[0], torch.arange(1)))
    finally:
        for handle in handles:
            handle.remove()
    return found
