"""What a runtime's profiler found of a step, and which module of the model each node belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...bundle import Bundle
from ...core.channel_parts import module_of
from ...core.integer_reference import PackedLayer
from ..profiling.profiles import NodeTime
from .profile import PROCESSOR


@dataclass(frozen=True)
class MeasuredStep:
    """A step by node.

    Attributes:
        nodes: all that took time.
        between: milliseconds that no node accounts for.
        owner_of: of a node's name, its module; None where it belongs to no quantised one.
        kernels: what ran, in a few words.
        device: where.
        profiled_ms: the step under the profiler, whose cost the nodes are without; None where
            that cost is in them.
        node_cost_ms: what was taken off for every start of a node; None where nothing was.
    """

    nodes: list[NodeTime]
    between: float
    owner_of: Callable[[str], str | None]
    kernels: str
    device: str = PROCESSOR
    profiled_ms: float | None = None
    node_cost_ms: float | None = None


def quantized_modules(bundle: Bundle) -> dict[str, list[PackedLayer]]:
    """The quantised modules; one that was split is all its parts."""
    found: dict[str, list[PackedLayer]] = {}
    for name, layer in bundle.layers.items():
        found.setdefault(module_of_layer(name, bundle), []).append(layer)
    return found


def module_of_layer(name: str, bundle: Bundle) -> str:
    """The module that a packed layer is, or is a part of."""
    return module_of(name) if name in bundle.channels else name


def layer_names(names: set[str], bundle: Bundle) -> Callable[[str], str | None]:
    """A node of a bundle keeps its layer's name, or becomes several whose names go on with a
    slash."""

    def owner_of(node: str) -> str | None:
        own = node.partition("/")[0]
        return module_of_layer(own, bundle) if own in names else None

    return owner_of
