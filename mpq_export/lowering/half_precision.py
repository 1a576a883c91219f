"""Graphs whose activations are float16 between the nodes.

What stays float32: the graph's inputs and outputs; everything that does not depend on the sample
(the timestep's embedding, projections of the text); inside normalisations, softmax and reductions,
whose sums leave float16's range; the last addition; and inside packed nodes all that the contract
says, which widen a float16 input exactly and round the output once. Nothing is clamped: a value
beyond 65504 becomes infinite, and ``mpq-check`` fails on it by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import BundleError
from .graph import Graph
from .graph_inputs import SAMPLE
from .nodes import is_mpq, register_schemas

_FLOAT32_OPERATORS = {
    "CumSum",
    "Exp",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "Pow",
    "RMSNormalization",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Reciprocal",
    "Softmax",
    "Sqrt",
}
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def is_half(graph: Graph) -> bool:
    """Whether a graph computes in float16 between its nodes."""
    return any(
        node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == _HALF
        for node in graph.model.graph.node
    )


def to_half(graph: Graph) -> Graph:
    """A float32 graph of packed nodes with float16 activations; inputs and outputs stay float32."""
    return _HalfBuilder(graph).build()


class _HalfBuilder:
    """Goes through the nodes in order; ``half`` holds the float32 names that are float16 now."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types = _element_types(graph)
        self.values = dict(graph.values())
        self.constants = set(self.values)
        self.nodes: list[onnx.NodeProto] = []
        self.half: set[str] = set()
        self.casts: set[str] = set()

    def build(self) -> Graph:
        """The converted graph."""
        outputs = {output.name for output in self.graph.model.graph.output}
        with_sample = {SAMPLE}
        for node in self.graph.model.graph.node:
            if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
                raise BundleError(
                    "The graph cannot be made float16",
                    where=node.name,
                    why=f"{node.op_type} holds a graph of its own",
                )
            # A shape is no activation: what is only repeated to the batch stays as it is.
            if node.op_type in ("Shape", "Size") or not with_sample.intersection(node.input):
                self._keep(node)
                continue
            with_sample.update(node.output)
            if outputs.intersection(node.output):
                self._keep(node)
            elif node.op_type in _FLOAT32_OPERATORS:
                self._around(node)
            else:
                self._convert(node)
        return self.graph.with_nodes(self.nodes, self.values, with_mpq=True)

    def _keep(self, node: onnx.NodeProto) -> None:
        """Run a node in float32; the shape of a float16 value is read where it is."""
        as_is = node.op_type in ("Shape", "Size")
        inputs = [name if as_is else self._as_float(name) for name in node.input]
        self._append(node, inputs, list(node.output))

    def _around(self, node: onnx.NodeProto) -> None:
        """Run a node in float32 between float16 neighbours."""
        wide = [f"{name}/float32" if self._is_float(name) else name for name in node.output]
        self._append(node, [self._as_float(name) for name in node.input], wide)
        for name, result in zip(node.output, wide, strict=True):
            if result != name:
                self._cast(result, name, _HALF)
                self.half.add(name)

    def _convert(self, node: onnx.NodeProto) -> None:
        """Run a node in float16; of packed nodes and of Resize only X is an activation."""
        only_first = is_mpq(node) or node.op_type == "Resize"
        activations = 1 if only_first else len(node.input)
        inputs = [
            self._as_half(name) if index < activations else name
            for index, name in enumerate(node.input)
        ]
        converted = self._append(node, inputs, list(node.output))
        self.half.update(name for name in node.output if self._is_float(name))
        for attribute in converted.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _HALF

    def _append(
        self, node: onnx.NodeProto, inputs: list[str], outputs: list[str]
    ) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        self.nodes.append(copy)
        return copy

    def _as_float(self, name: str) -> str:
        if name not in self.half:
            return name
        return self._cast_once(name, f"{name}/as_float32", _FLOAT)

    def _as_half(self, name: str) -> str:
        if not name or not self._is_float(name) or name in self.half:
            return name
        narrow = f"{name}/as_float16"
        if name in self.constants:
            with np.errstate(over="ignore"):
                self.values[narrow] = self.values[name].astype(np.float16)
            return narrow
        return self._cast_once(name, narrow, _HALF)

    def _cast_once(self, source: str, target: str, to: int) -> str:
        if target not in self.casts:
            self._cast(source, target, to)
            self.casts.add(target)
        return target

    def _cast(self, source: str, target: str, to: int) -> None:
        self.nodes.append(
            helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)
        )

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == _FLOAT


def _element_types(graph: Graph) -> Mapping[str, int]:
    """Element type of every value; raises BundleError where one cannot be inferred."""
    register_schemas()
    model = onnx.shape_inference.infer_shapes(graph.structure(), check_type=True, strict_mode=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise BundleError(
                    "The graph cannot be made float16",
                    where=node.name,
                    why=f"The type of {name} is not known",
                )
    return types
