"""What a model computes, call by call: recorded once without data, analysed, replayed in part.

A forward pass on torch's ``meta`` device costs neither memory nor arithmetic, and still tells which
operator reads which tensor. Layers are recorded as one call each, since what is inside them does
not matter: a replay may put another layer in their place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

RecordedLayer = nn.Linear | nn.Conv2d | nn.Embedding
"""Modules that are one call of a tape."""

_META = torch.device("meta")


@dataclass(frozen=True)
class Value:
    """A tensor of a tape, by its number."""

    number: int


@dataclass(frozen=True)
class Call:
    """One operator, or one layer by its module path, with its tensors as :class:`Value`."""

    function: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]

    @property
    def layer(self) -> str | None:
        """The layer's module path; None for an operator."""
        return self.function if isinstance(self.function, str) else None

    def inputs(self) -> list[int]:
        """The numbers of the tensors that it reads."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf.number for leaf in leaves if isinstance(leaf, Value)]


@dataclass(frozen=True)
class CallTape:
    """A recorded forward pass.

    Attributes:
        inputs: number of every named input.
        parameters: name of every parameter and buffer that an operator reads outside of layers.
        constants: tensors that the model made of Python numbers.
        calls: in the order in which they ran.
        outputs: numbers of the tensors that it returned.
        memory: of every tensor by number; tensors that share memory, such as views, have one.
    """

    inputs: Mapping[str, int]
    parameters: Mapping[int, str]
    constants: Mapping[int, torch.Tensor]
    calls: tuple[Call, ...]
    outputs: tuple[int, ...]
    memory: tuple[int, ...]

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in the order of their first call."""
        return list(dict.fromkeys(call.layer for call in self.calls if call.layer is not None))


def record_calls(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    forward: Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor],
) -> CallTape:
    """Run ``forward(model, inputs)`` on the meta device and record it.

    ``inputs`` may lie anywhere; only their shapes and types are read. The model is not changed.
    """
    empty = meta_copy(model)
    recorder = _Recorder(empty, {name: value.to(_META) for name, value in inputs.items()})
    layers = [(n, m) for n, m in empty.named_modules() if isinstance(m, RecordedLayer)]
    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in layers:
        handles += recorder.watch(name, module)
    with torch.no_grad(), recorder:
        output = forward(empty, recorder.inputs)
    for handle in handles:
        handle.remove()
    return recorder.tape(output)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules whose tensors have no data."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to(_META), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to(_META)
    return copy.deepcopy(model, memo)


def replay(
    tape: CallTape,
    calls: Iterable[Call],
    inputs: Mapping[str, torch.Tensor],
    model: nn.Module,
    run_layer: Callable[[str, torch.Tensor], torch.Tensor],
) -> dict[int, torch.Tensor]:
    """Run ``calls`` of a tape on real tensors, which have the shapes of the recorded ones.

    Args:
        tape: it has been recorded of ``model``.
        calls: some of its calls, in their order; what they read is written by others of them.
        inputs: those of the tape's inputs that the calls read.
        model: where parameters are taken from that operators read.
        run_layer: a layer's output for its name and input.

    Returns: every tensor that was computed, by number.
    """
    device = next(iter(inputs.values())).device
    values = {tape.inputs[name]: value for name, value in inputs.items()}

    def real(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return value_of(leaf.number)
        return device if leaf == _META else leaf

    def value_of(number: int) -> torch.Tensor:
        if number not in values:
            if number in tape.constants:
                values[number] = tape.constants[number].to(device)
            else:
                values[number] = _tensor_of(model, tape.parameters[number]).to(device)
        return values[number]

    for call in calls:
        args, kwargs = pytree.tree_map(real, (call.args, dict(call.kwargs)))
        if isinstance(call.function, str):
            result = run_layer(call.function, *args, **kwargs)
        else:
            result = call.function(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        values.update(zip(call.outputs, tensors, strict=True))
    return values


def _tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, key = name.rpartition(".")
    value: torch.Tensor = getattr(model.get_submodule(owner), key)
    return value


class _Recorder(TorchDispatchMode):
    """Numbers tensors and keeps them, so that no two have the same identity."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self._model = model
        self._kept: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}
        self._memory: list[int] = []
        self._calls: list[Call] = []
        self._constants: dict[int, torch.Tensor] = {}
        self._inside = 0
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self._parameters = {self._number(value): name for name, value in tensors}
        self._input_numbers = {name: self._number(value) for name, value in inputs.items()}

    def watch(self, name: str, module: nn.Module) -> Collection[torch.utils.hooks.RemovableHandle]:
        """Record calls of a layer, and nothing of what is inside them."""

        def enter(*_: Any) -> None:
            self._inside += 1

        def leave(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._inside -= 1
            self._record(name, args, kwargs, output)

        return (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, with_kwargs=True),
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, and record it unless a layer does."""
        output = func(*args, **(kwargs or {}))
        if not self._inside:
            self._record(func, args, kwargs or {}, output)
        return output

    def tape(self, output: torch.Tensor) -> CallTape:
        """Everything recorded."""
        return CallTape(
            self._input_numbers,
            self._parameters,
            self._constants,
            tuple(self._calls),
            (self._number(output),),
            tuple(self._memory),
        )

    def _record(self, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        named_args, named_kwargs = pytree.tree_map_only(
            torch.Tensor, self._input_value, (tuple(args), dict(kwargs))
        )
        outputs = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        numbers = tuple(self._number(value) for value in outputs)
        self._calls.append(Call(function, named_args, named_kwargs, numbers))

    def _input_value(self, tensor: torch.Tensor) -> Value:
        known = id(tensor) in self._numbers
        number = self._number(tensor)
        if not known:  # nothing recorded made it: Python numbers did
            self._constants[number] = tensor
        return Value(number)

    def _number(self, tensor: torch.Tensor) -> int:
        number = self._numbers.setdefault(id(tensor), len(self._kept))
        if number == len(self._kept):
            self._kept.append(tensor)
            self._memory.append(tensor.untyped_storage()._cdata)
        return number
