"""Layer normalisation whose scale and shift are computed, as one node, and back.

::

    X -> LayerNormalization -> Mul by scale -> Add shift -> Y

Its own scale must be ones, and scale and shift one row per image. In float16 graphs normalisations
stand between casts, and stay.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import Graph
from .layer_norm_nodes import ADA_LAYER_NORM_OPERATOR, make_ada_layer_norm
from .shapes import Shape, same_batch, shapes_of
from .unread import read_nodes, read_values, readers_of

_ONE = numpy_helper.from_array(np.ones(1, np.float32))


def fuse_layer_norms(graph: Graph) -> Graph:
    """``MPQAdaLayerNorm`` where the graph computes it, under the name of its last node."""
    finder = _Finder(graph)
    replaced: dict[int, onnx.NodeProto] = {}
    for node in graph.model.graph.node:
        if (node.domain, node.op_type) != ("", "LayerNormalization"):
            continue
        if (found := finder.modulated(node)) is not None:
            last, fused = found
            replaced[id(last)] = fused
    nodes = [replaced.get(id(node), node) for node in graph.model.graph.node]
    nodes = read_nodes(nodes, finder.outputs)
    return graph.with_nodes(nodes, read_values(finder.values, nodes, finder.outputs), with_mpq=True)


def expanded_layer_norm(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The standard operators that a fused layer normalisation stands for.

    Raises ContractError on a node that its schema does not allow.
    """
    attributes = ADA_LAYER_NORM_OPERATOR.attributes_of(node)
    (x, scale, shift), (y,) = node.input, node.output
    channels, ones, normal, scaled = (
        f"{y}/{part}" for part in ("channels", "ones", "normal", "scaled")
    )
    at = node.name
    yield helper.make_node("Shape", [x], [channels], name=f"{at}/channels", start=-1)
    yield helper.make_node("ConstantOfShape", [channels], [ones], name=f"{at}/ones", value=_ONE)
    yield helper.make_node(
        "LayerNormalization", [x, ones], [normal], name=f"{at}/norm", axis=-1, **attributes
    )
    yield helper.make_node("Mul", [normal, scale], [scaled], name=f"{at}/scaled")
    yield helper.make_node("Add", [scaled, shift], [y], name=f"{at}/shifted")


class _Finder:
    """What follows a layer normalisation."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.model.graph.node
        self.outputs = {output.name for output in graph.model.graph.output}
        self.values = graph.values()
        self.readers = readers_of(nodes)
        self.shapes = shapes_of(graph)

    def modulated(self, norm: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """The addition of the shift after a normalisation, and the node for all three."""
        x = norm.input[0]
        if len(norm.output) != 1 or not self._is_plain(norm):
            return None
        product = self._combined(norm.output[0], "Mul", x)
        if product is None:
            return None
        total = self._combined(product[0].output[0], "Add", x)
        if total is None:
            return None
        inputs = (x, product[1], total[1])
        epsilon = _attribute(norm, "epsilon", 1e-5)
        return total[0], make_ada_layer_norm(
            total[0].name, inputs, total[0].output[0], float(epsilon)
        )

    def _is_plain(self, norm: onnx.NodeProto) -> bool:
        """Whether it normalises the last axis of ``[N, T, C]``, and does nothing more."""
        if len(self._shape(norm.input[0])) != 3 or _attribute(norm, "axis", -1) not in (-1, 2):
            return False
        scale, *bias = (self.values.get(name) for name in norm.input[1:] if name)
        unscaled = scale is not None and scale.dtype == np.float32 and bool(np.all(scale == 1))
        return unscaled and all(value is not None and not np.any(value) for value in bias)

    def _combined(self, name: str, op_type: str, x: str) -> tuple[onnx.NodeProto, str] | None:
        """The only reader of a tensor like ``x``, and what it combines it with, one per image."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or name in self.outputs:
            return None
        (node,) = readers
        if (node.domain, node.op_type) != ("", op_type):
            return None
        (other,) = (entry for entry in node.input if entry != name)
        return (node, other) if _is_per_image(self._shape(other), self._shape(x)) else None

    def _shape(self, name: str) -> Shape:
        return self.shapes.get(name, ())


def _is_per_image(shape: Shape, x: Shape) -> bool:
    """Whether a tensor surely is ``[N or 1, 1, C]`` for ``x`` ``[N, T, C]``."""
    if len(shape) != 3 or shape[1] != 1 or not isinstance(shape[2], int) or shape[2] != x[2]:
        return False
    return shape[0] == 1 or same_batch(shape[0], x[0])


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
