"""Attention as the tracer writes it, from the split into heads to their merging, as one node.

::

    query -> Reshape -> Transpose -> Mul --\\
    key ---> Reshape -> Transpose ------> MatMul -> Softmax -\\
    value -> Reshape -> Transpose ----------------------> MatMul -> Transpose -> Reshape -> Y

What has a mask matches no such chain and stays as it is; so does what shapes do not prove to split
and merge the last axis alone. In float16 graphs the softmax stands between casts, and projections
of the text are cast after the split: the node casts them before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from .attention_nodes import make_attention
from .graph import Graph
from .shapes import Shape, shapes_of
from .unread import read_nodes, read_values

_BY_HEAD, _BY_HEAD_TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]


def fuse_attention(graph: Graph) -> Graph:
    """``MPQAttention`` where the graph computes it, under the name of its last node."""
    finder = _Finder(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.model.graph.node:
        found = finder.attention_before(node)
        nodes.extend([node] if found is None else found.nodes(node.name, node.output[0]))
    outputs = [output.name for output in graph.model.graph.output]
    nodes = read_nodes(nodes, outputs)
    return graph.with_nodes(nodes, read_values(graph.values(), nodes, outputs), with_mpq=True)


@dataclass(frozen=True)
class _Operand:
    """A tensor ``[B, S, H*D]``, its heads ``[B, S, H, D]``, and whether these become float16."""

    name: str
    whole: Shape
    heads: Shape
    narrowed: bool


@dataclass(frozen=True)
class _Attention:
    query: _Operand
    key: _Operand
    value: _Operand
    scale: float

    def nodes(self, name: str, y: str) -> list[onnx.NodeProto]:
        """The node that gives ``y``, after the casts that it needs."""
        made, inputs = [], []
        for role in ("query", "key", "value"):
            operand: _Operand = getattr(self, role)
            inputs.append(f"{y}/{role}" if operand.narrowed else operand.name)
            if operand.narrowed:
                made.append(
                    helper.make_node(
                        "Cast",
                        [operand.name],
                        [inputs[-1]],
                        name=f"{name}/{role}",
                        to=TensorProto.FLOAT16,
                    )
                )
        heads = self.query.heads[2]
        assert isinstance(heads, int)
        query, key, value = inputs
        return [*made, make_attention(name, (query, key, value), y, heads, self.scale)]


class _Finder:
    """Walks against the graph's direction."""

    def __init__(self, graph: Graph) -> None:
        self.producers = {name: node for node in graph.model.graph.node for name in node.output}
        self.values = graph.values()
        self.shapes = shapes_of(graph)

    def attention_before(self, merge: onnx.NodeProto) -> _Attention | None:
        """What ends in this node."""
        if merge.op_type != "Reshape" or merge.domain:
            return None
        if not _splits(self._shape(merge.output[0]), self._shape(merge.input[0])):
            return None
        product = self._producer(self._transpose(merge.input[0], _BY_HEAD), "MatMul")
        if product is None:
            return None
        factors = self._producer(self._softmax_input(product.input[0]), "MatMul")
        if factors is None:
            return None
        scaled, scale = self._unscaled(factors.input[0])
        query = self._operand(scaled, _BY_HEAD)
        key = self._operand(factors.input[1], _BY_HEAD_TRANSPOSED)
        value = self._operand(product.input[1], _BY_HEAD)
        if query is None or key is None or value is None or not _fit(query, key, value):
            return None
        return _Attention(query, key, value, scale)

    def _producer(self, name: str | None, op_type: str) -> onnx.NodeProto | None:
        node = self.producers.get(name) if name is not None else None
        return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None

    def _transpose(self, name: str, perm: list[int]) -> str | None:
        """The input of a transposition."""
        node = self._producer(name, "Transpose")
        if node is None or _attribute(node, "perm") != perm:
            return None
        return node.input[0]

    def _cast(self, name: str, to: int) -> str | None:
        """The input of a cast."""
        node = self._producer(name, "Cast")
        return node.input[0] if node is not None and _attribute(node, "to") == to else None

    def _softmax_input(self, name: str) -> str | None:
        """The scores of weights, both float16 where the softmax is float32 between casts."""
        wide = self._cast(name, TensorProto.FLOAT16)
        softmax = self._producer(wide or name, "Softmax")
        if softmax is None or any(a.i not in (-1, 3) for a in softmax.attribute):
            return None
        return self._cast(softmax.input[0], TensorProto.FLOAT) if wide else softmax.input[0]

    def _unscaled(self, name: str) -> tuple[str, float]:
        """The tensor before its multiplication by a constant, and the constant."""
        product = self._producer(name, "Mul")
        if product is not None:
            for x, factor in (product.input, reversed(product.input)):
                value = self.values.get(factor)
                if value is not None and value.size == 1:
                    return x, float(np.float32(value.item()))
        return name, 1.0

    def _operand(self, name: str, perm: list[int]) -> _Operand | None:
        """The tensor whose heads, split and transposed by ``perm``, are ``name``."""
        wide = self._cast(name, TensorProto.FLOAT16)
        heads = self._transpose(wide or name, perm)
        split = self._producer(heads, "Reshape")
        if split is None:
            return None
        whole, parts = self._shape(split.input[0]), self._shape(split.output[0])
        if not _splits(whole, parts):
            return None
        return _Operand(split.input[0], whole, parts, wide is not None)

    def _shape(self, name: str) -> Shape:
        return self.shapes.get(name, ())


def _splits(whole: Shape, parts: Shape) -> bool:
    """Whether reshaping ``[b, s, h*d]`` to ``[b, s, h, d]``, or back, surely leaves b and s alone.

    As a reshape keeps the number of elements, one of the two is enough.
    """
    if len(whole) != 3 or len(parts) != 4:
        return False
    heads, width = parts[2:]
    if not isinstance(heads, int) or not isinstance(width, int) or whole[2] != heads * width:
        return False
    return any(a is not None and a == b for a, b in zip(whole[:2], parts[:2], strict=True))


def _fit(query: _Operand, key: _Operand, value: _Operand) -> bool:
    """Whether all have the same heads, and none is repeated to the others' batch.

    Lengths that are not numbers come from the graph's inputs, whose batch is one and the same.
    """
    batches = {operand.whole[0] for operand in (query, key, value)}
    numbers = {batch for batch in batches if isinstance(batch, int)}
    same_batch = not numbers or (batches == numbers and len(numbers) == 1)
    return same_batch and query.heads[2:] == key.heads[2:] == value.heads[2:]


def _attribute(node: onnx.NodeProto, name: str) -> object:
    """Its value, None where it is left out."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)
