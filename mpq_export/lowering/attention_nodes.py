"""Attention as one operator: ``MPQAttention``, with its body in standard operators.

``softmax(scale * Q K^T) V`` per head, without a mask, for runtimes that have a kernel for it: the
scores never pass through memory as a whole, and no head is copied. Inputs ``query [B, S, H*D]``,
``key [B, T, H*D]``, ``value [B, T, H*D]``; attributes ``num_heads`` (H) and ``scale``; output
``Y [B, S, H*D]``. The softmax is computed in float32. They are those of ONNX Runtime's
``MultiHeadAttention``, by name and in order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnx import defs, helper
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .nodes import DOMAIN, OPSET, VERSION

ATTENTION = "MPQAttention"
_INPUTS = ("query", "key", "value")
_ATTRIBUTES = {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT}
_ATTRIBUTE_TYPES = {"num_heads": onnx.AttributeProto.INT, "scale": onnx.AttributeProto.FLOAT}

_SPLIT = """
    {x}_heads = Reshape ({x}, split)
    {x}_by_head = Transpose <perm: ints = {perm}> ({x}_heads)
"""
_BODY = f"""
    batch_and_tokens = Constant <value_ints: ints = [0, 0]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    heads_scalar = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_scalar, rest)
    split = Concat <axis: int = 0> (batch_and_tokens, heads, rest)
    {_SPLIT.format(x="query", perm=[0, 2, 1, 3])}
    {_SPLIT.format(x="key", perm=[0, 2, 3, 1])}
    {_SPLIT.format(x="value", perm=[0, 2, 1, 3])}
    scale_float = Constant <value_float: float = @scale> ()
    scale_like = CastLike (scale_float, query)
    scaled = Mul (query_by_head, scale_like)
    scores = MatMul (scaled, key_by_head)
    scores_float = Cast <to: int = 1> (scores)
    weights_float = Softmax <axis: int = -1> (scores_float)
    weights = CastLike (weights_float, query)
    attended = MatMul (weights, value_by_head)
    attended_tokens = Transpose <perm: ints = [0, 2, 1, 3]> (attended)
    merged = Concat <axis: int = 0> (batch_and_tokens, rest)
    Y = Reshape (attended_tokens, merged)
"""


def is_attention(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type == ATTENTION


def make_attention(
    name: str, inputs: tuple[str, str, str], y: str, num_heads: int, scale: float
) -> onnx.NodeProto:
    """The node of that name; ``inputs`` are query, key and value."""
    return helper.make_node(
        ATTENTION, inputs, [y], name=name, domain=DOMAIN, num_heads=num_heads, scale=scale
    )


def require_attention(node: onnx.NodeProto) -> None:
    """Raise ContractError unless the node has exactly the schema's inputs and attributes.

    ONNX Runtime's operator would take more of both, and they would mean something there.
    """
    found: dict[str, Any] = {attribute.name: attribute.type for attribute in node.attribute}
    repeated = len(found) != len(node.attribute)
    if repeated or found != _ATTRIBUTE_TYPES or len(node.input) != 3 or len(node.output) != 1:
        raise ContractError(f"node {node.name} is not {ATTENTION} of version {VERSION}")


@cache
def register_attention_schema() -> None:
    """Make it known to onnx's checker and shape inference; once per process."""
    schema = OpSchema(
        ATTENTION,
        DOMAIN,
        VERSION,
        doc="Attention without a mask, heads side by side; see docs/format.md.",
        inputs=[OpSchema.FormalParameter(name, "T") for name in _INPUTS],
        outputs=[OpSchema.FormalParameter("Y", "T", "Shape and type of the query.")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Activation type.")],
        attributes=[
            OpSchema.Attribute(name, kind, required=True) for name, kind in _ATTRIBUTES.items()
        ],
    )
    schema.set_type_and_shape_inference_function(_same_as_query)
    defs.register_schema(schema)


def _same_as_query(context: onnx.shape_inference.InferenceContext) -> None:
    if (query := context.get_input_type(0)) is not None:
        context.set_output_type(0, query)


@cache
def attention_body() -> onnx.FunctionProto:
    """Its body in standard operators."""
    body = onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]> '
        f"{ATTENTION} <num_heads, scale> ({', '.join(_INPUTS)}) => (Y) {{{_BODY}}}"
    )
    body.doc_string = "Attention in standard operators; see docs/format.md."
    return body
