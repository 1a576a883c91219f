"""The calls of one block: what it is given and what it gives, for samples of all steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..errors import LayerError
from .walk import CalibrationWalk, ChosenImages, Samples, replay

MAX_BYTES = 1 << 29
"""Of one block's inputs and outputs; where samples are too large for it there are fewer."""


@dataclass(frozen=True)
class BlockCalls:
    """N calls of a block, of one image each.

    Attributes:
        inputs: tensors by their place among the arguments, ``[N, ...]``.
        fixed: arguments that are the same in every call, by place.
        structure: of the arguments, positional and by name.
        outputs: float32 ``[N, ...]``.
        entries: int64 ``[N]``, rows of the activation tables.
    """

    inputs: Mapping[int, torch.Tensor]
    fixed: Mapping[int, Any]
    structure: TreeSpec
    outputs: torch.Tensor
    entries: torch.Tensor

    def arguments(self, rows: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of one call for some of the N."""
        places = {**self.fixed, **{place: value[rows] for place, value in self.inputs.items()}}
        args, kwargs = tree_unflatten([places[i] for i in range(len(places))], self.structure)
        return args, kwargs


def running_order(
    model: nn.Module, model_config: Mapping[str, Any], walk: CalibrationWalk, names: Collection[str]
) -> list[str]:
    """The modules in the order in which the model first runs them; those that do not run are left
    out."""
    seen: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, _args, name=name: seen.append(name)
        )
        for name in names
    ]
    try:
        replay(model, model_config, ChosenImages(walk.steps[0], torch.arange(1)))
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(seen))


def samples_of_block(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    block: nn.Module,
    wanted: int,
) -> Samples:
    """About ``wanted`` samples of a block within the memory that they may take. Raises LayerError
    if the block does not run."""
    step = walk.steps[0]
    one = record_calls(model, model_config, [ChosenImages(step, torch.arange(1))], block)
    size = 4 * (one.outputs.numel() + sum(value.numel() for value in one.inputs.values()))
    return samples_within_memory(wanted, len(walk.steps), size)


def samples_within_memory(wanted: int, steps: int, sample_bytes: int) -> Samples:
    """About ``wanted`` samples in :data:`MAX_BYTES`, spread over so many steps: of every step, or
    one each of as many steps as there is memory for; at least one."""
    fitting = max(1, MAX_BYTES // sample_bytes)
    if fitting < steps:
        return Samples(fitting, 1)
    return Samples(steps, min(-(-wanted // steps), fitting // steps))


@torch.no_grad()
def record_calls(
    model: nn.Module,
    model_config: Mapping[str, Any],
    chosen: Sequence[ChosenImages],
    block: nn.Module,
    on_step: Callable[[], None] = lambda: None,
) -> BlockCalls:
    """Run the model up to the end of a block, the first call of each step, and keep its calls.

    Args:
        model: of which ``block`` is a module.
        model_config: its config.
        chosen: images at steps of its trajectories.
        block: gives a tensor, or a tuple that begins with one.
        on_step: reports progress.

    Raises LayerError where the block does not run, or has arguments that are neither of an image
    each nor the same in all calls.
    """
    calls: list[tuple[list[Any], TreeSpec, torch.Tensor]] = []

    def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        leaves, structure = tree_flatten((args, kwargs))
        first = output[0] if isinstance(output, tuple) else output
        calls.append((leaves, structure, first.float()))
        raise _Reached

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        for part in chosen:
            try:
                replay(model, model_config, part)
            except _Reached:
                on_step()
    finally:
        handle.remove()
    if len(calls) != len(chosen):
        raise LayerError("A block to reconstruct does not run", where=type(block).__name__)
    return _gathered(calls, chosen)


class _Reached(BaseException):
    """The block has run; nothing behind it is wanted. No Exception, which a model may catch."""


def _gathered(
    calls: Sequence[tuple[list[Any], TreeSpec, torch.Tensor]], chosen: Sequence[ChosenImages]
) -> BlockCalls:
    leaves, structure, _ = calls[0]
    counts = [len(part.images) for part in chosen]
    inputs: dict[int, torch.Tensor] = {}
    fixed: dict[int, Any] = {}
    for place, first in enumerate(leaves):
        values = [own[place] for own, _, _ in calls]
        if isinstance(first, torch.Tensor) and all(
            value.dim() and len(value) == count for value, count in zip(values, counts, strict=True)
        ):
            inputs[place] = torch.cat(values)
        elif all(_same(value, first) for value in values):
            fixed[place] = first
        else:
            raise LayerError(
                "A block cannot be reconstructed",
                where=f"argument {place}",
                why="It is neither of one image each nor the same in all calls",
            )
    entries = torch.tensor([part.step.entry for part in chosen])
    return BlockCalls(
        inputs,
        fixed,
        structure,
        torch.cat([output for _, _, output in calls]),
        entries.repeat_interleave(torch.tensor(counts)),
    )


def _same(value: Any, first: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(value, torch.Tensor) and torch.equal(value, first)
    return bool(value == first)
