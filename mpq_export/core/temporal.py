"""The temporal information block of a diffusion model, found in what the model computes.

TFMQ-DM (arXiv 2311.16503, section 3) calls temporal features what the timestep alone says to the
rest of a network, and temporal information block the layers that make them::

    h(t) = linear_2(silu(linear_1(sin, cos(t))))        feature_i(t) = linear_i(silu(h(t)))

No name says which layers those are. A layer belongs to the block if its input depends on the
timestep and, of the model's inputs, on no other than those that are allowed; a feature is the
output of the last such layer before it meets anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .call_tape import Call, CallTape, replay
from .planes import ContractError

TIMESTEP = "timestep"
RunLayer = Callable[[str, torch.Tensor], torch.Tensor]
"""A layer's output for its module path and its input."""


@dataclass(frozen=True)
class TemporalBlock:
    """Layers between the timestep and the rest of a model.

    Attributes:
        tape: of the model.
        inputs: those of its inputs that the features depend on, the timestep among them.
        features: the layers whose outputs leave the block, in the order in which they run.
        layers: all layers of the block, features included, that read the timestep, likewise.
        calls: what computes the features.
    """

    tape: CallTape
    inputs: frozenset[str]
    features: tuple[str, ...]
    layers: tuple[str, ...]
    calls: tuple[Call, ...]

    @property
    def read_layers(self) -> frozenset[str]:
        """All layers behind the features, also those that read other inputs alone."""
        return frozenset(call.layer for call in self.calls if call.layer is not None)

    def run(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], run_layer: RunLayer
    ) -> dict[str, torch.Tensor]:
        """The features ``[B, O]`` by layer for inputs of the recorded shapes, with gradients.

        Raises ContractError if a feature's layer runs more than once and gives different outputs.
        """
        own = {name: inputs[name] for name in self.inputs}
        values = replay(self.tape, self.calls, own, model, run_layer)
        outputs: dict[str, torch.Tensor] = {}
        for call in self.calls:
            if call.layer in self.features:
                value = values[call.outputs[0]]
                if not torch.equal(outputs.setdefault(call.layer, value), value):
                    raise ContractError(f"{call.layer} gives different features in one step")
        return {name: outputs[name] for name in self.features}


def find_temporal_block(tape: CallTape, allowed: Collection[str]) -> TemporalBlock:
    """The block whose features depend on the timestep and on ``allowed`` inputs alone.

    Its features may be none: then the timestep meets other inputs before any layer, or never.
    """
    allowed = {TIMESTEP, *allowed}
    dependences = list(_dependences(tape))
    features: set[str] = set()
    layers: list[str] = []
    for call, read in zip(tape.calls, dependences, strict=True):
        together = frozenset[str]().union(*(part.inputs for part in read))
        if not together <= allowed:
            for part in read:
                if TIMESTEP in part.inputs and part.inputs <= allowed:
                    features |= part.last_layers
        elif call.layer is not None and TIMESTEP in together:
            layers.append(call.layer)
    ordered = tuple(dict.fromkeys(layers))
    calls = _computing(tape, features)
    used = frozenset(
        name for name, number in tape.inputs.items() if any(number in c.inputs() for c in calls)
    )
    inside = {call.layer for call in calls}
    return TemporalBlock(
        tape,
        used,
        tuple(name for name in ordered if name in features),
        tuple(name for name in ordered if name in inside),
        calls,
    )


def unread_layers(tape: CallTape, replaced: Collection[str]) -> list[str]:
    """The layers that no output depends on once ``replaced`` ones read their input no more.

    The replaced ones are among them, in the order in which they run.
    """
    read = {
        call.layer for call in _calls_before(tape, {tape.memory[n] for n in tape.outputs}, replaced)
    }
    return [name for name in tape.layers if name in replaced or name not in read]


def layer_inputs(tape: CallTape) -> dict[str, frozenset[str]]:
    """The inputs of the model that the input of every layer depends on."""
    found: dict[str, frozenset[str]] = {}
    for call, read in zip(tape.calls, _dependences(tape), strict=True):
        if call.layer is not None:
            own = frozenset[str]().union(*(part.inputs for part in read))
            found[call.layer] = found.get(call.layer, frozenset()) | own
    return found


@dataclass(frozen=True)
class _Dependence:
    """The inputs that a tensor depends on, and the last layers on the way to it."""

    inputs: frozenset[str]
    last_layers: frozenset[str]

    def __or__(self, other: _Dependence) -> _Dependence:
        return _Dependence(self.inputs | other.inputs, self.last_layers | other.last_layers)


_NOTHING = _Dependence(frozenset(), frozenset())


def _dependences(tape: CallTape) -> Iterator[list[_Dependence]]:
    """What each call's inputs depend on, call by call.

    Memory counts, not tensors: what is written into a view is read through all others.
    """
    known = {
        tape.memory[number]: _Dependence(frozenset({name}), frozenset())
        for name, number in tape.inputs.items()
    }
    for call in tape.calls:
        read = [known.get(tape.memory[number], _NOTHING) for number in call.inputs()]
        yield read
        after = _NOTHING
        for part in read:
            after |= part
        if call.layer is not None:
            after = _Dependence(after.inputs, frozenset({call.layer}))
        for number in call.outputs:
            place = tape.memory[number]
            known[place] = after if call.layer is not None else known.get(place, _NOTHING) | after


def _computing(tape: CallTape, features: Collection[str]) -> tuple[Call, ...]:
    """The calls that the outputs of some layers depend on, in their order."""
    outputs = {
        tape.memory[number]
        for call in tape.calls
        if call.layer in features
        for number in call.outputs
    }
    last = max((i for i, call in enumerate(tape.calls) if call.layer in features), default=-1)
    return tuple(_calls_before(tape, outputs, (), last + 1))


def _calls_before(
    tape: CallTape, wanted: set[int], replaced: Collection[str], end: int | None = None
) -> list[Call]:
    """The calls that some memory depends on, in their order; ``replaced`` layers are not
    followed."""
    wanted, found = set(wanted), []
    for call in reversed(tape.calls[:end]):
        if wanted.isdisjoint(tape.memory[number] for number in call.outputs):
            continue
        if call.layer is None or call.layer not in replaced:
            found.append(call)
            wanted.update(tape.memory[number] for number in call.inputs())
    return found[::-1]
