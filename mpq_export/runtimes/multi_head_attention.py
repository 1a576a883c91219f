"""``MPQAttention`` as ONNX Runtime's own operator, for sessions without the native library."""

from __future__ import annotations

import onnx
from onnx import helper

from ..lowering.attention_nodes import ATTENTION_OPERATOR, is_attention
from ..lowering.graph import Graph

_DOMAIN, _VERSION = "com.microsoft", 1


def with_multi_head_attention(graph: Graph) -> Graph:
    """The graph with ``MultiHeadAttention`` in place of ``MPQAttention``: same inputs, attributes.

    In float16 ONNX Runtime casts to float32 around it by itself. Raises ContractError on a node
    that is malformed.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    fused = [node for node in model.graph.node if is_attention(node)]
    for node in fused:
        ATTENTION_OPERATOR.attributes_of(node)  # ONNX Runtime's operator would take more
        node.domain, node.op_type = _DOMAIN, "MultiHeadAttention"
    if fused:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, _VERSION))
    return Graph(model, graph.tensors)
