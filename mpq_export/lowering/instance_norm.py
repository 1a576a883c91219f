"""Group normalisation in operators of which none knows groups: ``InstanceNormalization`` of
reshaped tensors, with the scale and the bias of every channel after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..core.planes import ContractError
from .graph import Graph
from .shapes import shapes_of
from .unread import read_values


def instance_norm(
    node: onnx.NodeProto, rank: int, values: dict[str, np.ndarray]
) -> Iterator[onnx.NodeProto]:
    """The operators of a ``GroupNormalization`` of a tensor of this rank; adds their constants.

    Raises ContractError if its scale or bias is no constant.
    """
    x, scale, bias = node.input
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    groups, epsilon = attributes["num_groups"], attributes.get("epsilon", 1e-5)
    if not values.keys() >= {scale, bias}:
        raise ContractError(f"node {node.name}: its scale or bias is no constant")

    def constant(name: str, value: np.ndarray) -> str:
        values[name] = np.ascontiguousarray(value)
        return name

    dtype, at = values[scale].dtype, node.name
    split = constant(f"trt.groups_{groups}", np.array([0, groups, -1], np.int64))
    ones = constant(f"trt.ones_{groups}_{dtype}", np.ones(groups, dtype))
    zeros = constant(f"trt.zeros_{groups}_{dtype}", np.zeros(groups, dtype))

    def op(op_type: str, *inputs: str, to: str, **given: Any) -> onnx.NodeProto:
        own = helper.make_node(op_type, inputs, [to], name=f"{to}/{op_type.lower()}", **given)
        own.metadata_props.extend(node.metadata_props)
        return own

    yield op("Reshape", x, split, to=f"{at}/groups")
    yield op(
        "InstanceNormalization", f"{at}/groups", ones, zeros, to=f"{at}/normal", epsilon=epsilon
    )
    yield op("Shape", x, to=f"{at}/shape")
    yield op("Reshape", f"{at}/normal", f"{at}/shape", to=f"{at}/channels")
    spatial = (-1,) + (1,) * (rank - 2)
    factors = constant(f"{at}.scale_per_channel", values[scale].reshape(spatial))
    offsets = constant(f"{at}.bias_per_channel", values[bias].reshape(spatial))
    yield op("Mul", f"{at}/channels", factors, to=f"{at}/scaled")
    yield op("Add", f"{at}/scaled", offsets, to=node.output[0])


def with_instance_norms(graph: Graph) -> Graph:
    """The graph with every ``GroupNormalization`` written so; raises as :func:`instance_norm`.

    ONNX Runtime's CPU has no kernel for groups and runs their definition, which is slower.
    """
    values, shapes = dict(graph.values()), shapes_of(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.model.graph.node:
        if (node.domain, node.op_type) == ("", "GroupNormalization"):
            nodes.extend(instance_norm(node, len(shapes[node.input[0]]), values))
        else:
            nodes.append(node)
    outputs = [output.name for output in graph.model.graph.output]
    return graph.with_nodes(nodes, read_values(values, nodes, outputs), with_mpq=False)
