"""Attention as one operator: ``MPQAttention``, with its body in standard operators.

``softmax(scale * Q K^T) V`` per head, without a mask, for runtimes that have a kernel for it: the
scores never pass through memory as a whole, and no head is copied. Inputs ``query [B, S, H*D]``,
``key [B, T, H*D]``, ``value [B, T, H*D]``; attributes ``num_heads`` (H) and ``scale``; output
``Y [B, S, H*D]``. The softmax is computed in float32. They are those of ONNX Runtime's
``MultiHeadAttention``, by name and in order.
"""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.defs import OpSchema

from .fused_operator import FusedOperator
from .nodes import DOMAIN

ATTENTION = "MPQAttention"
_INPUTS = (("query", "T"), ("key", "T"), ("value", "T"))
_ATTRIBUTES = {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT}

_SPLIT = """
    {x}_heads = Reshape ({x}, split)
    {x}_by_head = Transpose <perm: ints = {perm}> ({x}_heads)
"""
_BODY = f"""
    batch_and_tokens = Constant <value_ints: ints = [0, 0]> ()
    one_number = Constant <value_ints: ints = [1]> ()
    heads_scalar = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_scalar, one_number)
    channels = Shape <start: int = 2> (query)
    width = Div (channels, heads)
    split = Concat <axis: int = 0> (batch_and_tokens, heads, width)
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
    merged = Concat <axis: int = 0> (batch_and_tokens, channels)
    Y = Reshape (attended_tokens, merged)
"""


ATTENTION_OPERATOR = FusedOperator(
    ATTENTION, "Attention without a mask", _INPUTS, _ATTRIBUTES, _BODY
)


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
