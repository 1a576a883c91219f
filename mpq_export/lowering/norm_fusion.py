"""Group normalisation, and the SiLU after it, as one node, and back.

A fusion changes which operators compute a tensor, never what is computed: names of the tensors
that other nodes read stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from .graph import Graph
from .nodes import DOMAIN
from .norm_nodes import GROUP_NORM, GROUP_NORM_SILU, norm_attributes
from .unread import read_nodes, readers_of


def fuse_group_norms(graph: Graph) -> Graph:
    """``GroupNormalization`` with constant scale and bias, and the SiLU after it, as one node.

    The SiLU joins where nothing else reads the normalised tensor.
    """
    nodes = list(graph.model.graph.node)
    values = graph.values()
    readers = readers_of(nodes)
    outputs = {output.name for output in graph.model.graph.output}
    replaced: dict[int, onnx.NodeProto] = {}
    for node in nodes:
        if node.op_type != "GroupNormalization" or not values.keys() >= set(node.input[1:]):
            continue
        silu = _silu_after(node.output[0], readers)
        if silu is not None and outputs.isdisjoint((node.output[0], silu[0].output[0])):
            product = silu[1]
            replaced[id(product)] = _norm(GROUP_NORM_SILU, node, product.output[0])
        else:
            replaced[id(node)] = _norm(GROUP_NORM, node, node.output[0])
    kept = read_nodes((replaced.get(id(node), node) for node in nodes), outputs)
    return graph.with_nodes(kept, values, with_mpq=True)


def expanded_norm(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The standard operators that a fused normalisation stands for.

    Raises ContractError on a node that its schema does not allow.
    """
    attributes = norm_attributes(node)
    silu = node.op_type == GROUP_NORM_SILU
    y = node.output[0]
    normal = f"{y}/normal" if silu else y
    yield helper.make_node(
        "GroupNormalization", list(node.input), [normal], name=f"{node.name}/norm", **attributes
    )
    if silu:
        gate = f"{y}/gate"
        yield helper.make_node("Sigmoid", [normal], [gate], name=f"{node.name}/sigmoid")
        yield helper.make_node("Mul", [normal, gate], [y], name=f"{node.name}/silu")


def _norm(op_type: str, norm: onnx.NodeProto, y: str) -> onnx.NodeProto:
    attributes = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
    return helper.make_node(
        op_type,
        list(norm.input),
        [y],
        name=norm.name,
        domain=DOMAIN,
        num_groups=attributes["num_groups"],
        epsilon=attributes.get("epsilon", 1e-5),
    )


def _silu_after(
    name: str, readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The sigmoid and the product of ``x * sigmoid(x)``, if nothing else reads ``x``."""
    sigmoids = [node for node in readers[name] if node.op_type == "Sigmoid"]
    if len(sigmoids) != 1 or len(readers[name]) != 2:
        return None
    gate = sigmoids[0].output[0]
    products = [node for node in readers[gate] if node.op_type == "Mul"]
    if len(products) != 1 or len(readers[gate]) != 1:
        return None
    return (sigmoids[0], products[0]) if sorted(products[0].input) == sorted([name, gate]) else None
