"""An engine's profile as times of nodes, and which nodes of the model those were."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from onnx import ModelProto

from ...runtimes.tensorrt.engine_layers import REFORMAT, EngineLayer, layer_by_name
from ...runtimes.tensorrt.profiled import EngineProfile
from .profiles import TOGETHER, NodeTime

_MOST_OPERATORS = 4
_SAID = 120


def operators_of(model: ModelProto) -> dict[str, str]:
    """The operators of a graph by their nodes' names, as TensorRT's parser has those."""
    return {
        node.name or f"node_of_{node.output[0]}": node.op_type
        for node in model.graph.node
        if node.output
    }


def engine_nodes(profile: EngineProfile, operators: Mapping[str, str]) -> list[NodeTime]:
    """A node for every layer of the engine that took time, with what it does for its operator.

    Args:
        profile: of at least one step.
        operators: of the model's nodes by name.
    """
    return [
        NodeTime(
            layer.name,
            _operator(layer, operators),
            median(step.get(layer.name, 0.0) for step in profile.ms),
            layer.elements,
            layer.types,
            layer.kernel[:_SAID],
        )
        for layer in timed_layers(profile)
    ]


def timed_layers(profile: EngineProfile) -> list[EngineLayer]:
    """Those that the profiler told of; where the inspector has none of a name, what that says."""
    known = {layer.name: layer for layer in profile.layers}
    names = dict.fromkeys(name for step in profile.ms for name in step)
    return [known.get(name) or layer_by_name(name) for name in names]


def time_between(profile: EngineProfile) -> float:
    """Milliseconds of a step that no layer accounts for; the least of all steps, since what else
    the machine does lands here as well."""
    return max(
        0.0,
        min(
            whole - sum(step.values())
            for whole, step in zip(profile.step_ms, profile.ms, strict=True)
        ),
    )


def is_detailed(profile: EngineProfile) -> bool:
    """Whether the engine holds more of its layers than their names."""
    return any(layer.kind for layer in profile.layers)


def _operator(layer: EngineLayer, operators: Mapping[str, str]) -> str:
    """Of the model's nodes that it was made of, each once; else TensorRT's own word."""
    if layer.copies:
        return REFORMAT
    found = list(dict.fromkeys(operators[node] for node in layer.nodes if node in operators))
    if len(found) > _MOST_OPERATORS:
        found = [*found[:_MOST_OPERATORS], "others"]
    return TOGETHER.join(found) or layer.kind or "unknown"
