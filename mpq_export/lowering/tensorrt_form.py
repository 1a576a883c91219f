"""The ``trt`` targets: what the parser of every TensorRT from 10.3 on takes.

Layers are nodes of our plugin, or symmetric INT8 operators of TensorRT's own (``plain_int8``).

That parser reads opset 20 at most, and takes ``GroupNormalization`` with one scale per group, as it
was before opset 21. So normalisations of groups become those of instances (``instance_norm``), the
form that TensorRT has always known. No function bodies: TensorRT would run them in the place of the
plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import defs, helper

from ..core.planes import ContractError
from .graph import Graph
from .half_precision import is_half
from .instance_norm import instance_norm
from .kernel_nodes import DOMAIN, VERSION, make_kernel_node
from .nodes import OPSET, all_nodes, is_mpq, read_layer, residual_of
from .plain_int8 import plain_int8_nodes
from .residual_fusion import expanded_residual, fuse_residuals, of_every_pixel
from .shapes import shapes_of
from .unread import read_values

Values = dict[str, np.ndarray]
TENSORRT_OPSET = 20
_CHANGED_IN_MEANING = {"GroupNormalization", "QuantizeLinear", "DequantizeLinear"}
"""Between opset 20 and 21; all others only grew types."""
_NO_TABLE = np.zeros(0, np.float32)


def to_tensorrt(graph: Graph) -> Graph:
    """A graph of packed nodes as TensorRT takes it, layers as plugins; names of all other tensors
    stay.

    Raises ContractError on an operator that opset 20 does not have with the same meaning, and as
    ``read_layer`` does.
    """

    def rewrite(node: onnx.NodeProto, values: Values) -> tuple[list[onnx.NodeProto], Values]:
        layer = read_layer(node, values)
        own, tensors = make_kernel_node(
            node.name, layer, node.input[0], node.input[1], node.output[0], residual_of(node)
        )
        return [own], tensors

    fused = fuse_residuals(graph, [of_every_pixel])
    return _lowered(fused, rewrite, [helper.make_opsetid(DOMAIN, VERSION)])


def to_tensorrt_int8(graph: Graph) -> Graph:
    """The same with layers in operators of TensorRT's own; raises as :func:`to_tensorrt`."""
    half = is_half(graph)

    def rewrite(node: onnx.NodeProto, values: Values) -> tuple[list[onnx.NodeProto], Values]:
        layer, *residual = expanded_residual(node)
        own, tensors = plain_int8_nodes(layer, values, half)
        return [*own, *residual], tensors

    return _lowered(graph, rewrite, [])


def _lowered(
    graph: Graph,
    rewrite: Callable[[onnx.NodeProto, Values], tuple[list[onnx.NodeProto], Values]],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> Graph:
    """The graph in opset 20, its packed nodes replaced by what ``rewrite`` makes of each."""
    values, shapes = dict(graph.values()), shapes_of(graph)
    around = [node for node in graph.model.graph.node if not is_mpq(node)]
    _require_older_meaning([n for n in around if n.op_type != "GroupNormalization" or n.domain])
    nodes: list[onnx.NodeProto] = []
    for node in graph.model.graph.node:
        if node.op_type == "Gather" and values.get(node.input[0], _NO_TABLE).dtype == np.int8:
            # TensorRT has int8 between quantising and dequantising alone; float16 holds the codes.
            values[node.input[0]] = values[node.input[0]].astype(np.float16)
        if is_mpq(node):
            own, tensors = rewrite(node, values)
            nodes.extend(own)
            values |= tensors
        elif node.op_type == "GroupNormalization":
            nodes.extend(instance_norm(node, len(shapes[node.input[0]]), values))
        else:
            nodes.append(node)
    outputs = [output.name for output in graph.model.graph.output]
    lowered = graph.with_nodes(nodes, read_values(values, nodes, outputs), with_mpq=False)
    del lowered.model.opset_import[:]
    lowered.model.opset_import.extend([helper.make_opsetid("", TENSORRT_OPSET), *opsets])
    return lowered


def _require_older_meaning(nodes: list[onnx.NodeProto]) -> None:
    """Raise ContractError at an operator that is newer than opset 20, or has changed since."""
    for node in all_nodes(nodes):
        if node.domain:
            raise ContractError(f"node {node.name}: TensorRT has no {node.domain}.{node.op_type}")
        known = defs.has(node.op_type, "") and _since(node.op_type, TENSORRT_OPSET) is not None
        if not known or node.op_type in _CHANGED_IN_MEANING:
            raise ContractError(
                f"node {node.name}: {node.op_type} of opset {OPSET} is not in {TENSORRT_OPSET}"
            )


def _since(op_type: str, opset: int) -> int | None:
    try:
        return defs.get_schema(op_type, opset).since_version
    except defs.SchemaError:
        return None
