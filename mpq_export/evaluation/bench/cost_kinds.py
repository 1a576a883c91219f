"""What nodes are for, by their operators."""

from __future__ import annotations

from enum import StrEnum

from ..profiling.profiles import TOGETHER, NodeTime


class Cost(StrEnum):
    """What a node is for."""

    PRODUCTS = "products of layers"
    CONVERSIONS = "conversions between floating point and integers"
    COPIES = "copies that only move data"
    NORMS = "normalisations"
    ATTENTION = "attention"
    ELEMENTWISE = "element-wise operators"
    BETWEEN = "time between the nodes"


_OPERATORS = {
    Cost.CONVERSIONS: ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"),
    Cost.COPIES: (
        "Transpose", "ReorderInput", "ReorderOutput", "Reshape", "Concat", "Slice", "Split",
        "Resize", "Upsample", "Expand", "Gather", "Pad", "Unsqueeze", "Squeeze", "Shape", "Im2Col",
        "QLinearConcat", "Identity", "Flatten", "Tile", "Reformat",
    ),
    Cost.NORMS: (
        "InstanceNormalization", "GroupNormalization", "LayerNormalization", "MPQGroupNorm",
        "MPQGroupNormSiLU", "MPQLayerNorm", "MPQAdaptiveLayerNorm", "SkipLayerNormalization",
    ),
    Cost.ATTENTION: (
        "Softmax", "QLinearSoftmax", "MPQAttention", "MultiHeadAttention", "Attention",
    ),
}  # fmt: skip
_KIND_OF = {operator: cost for cost, operators in _OPERATORS.items() for operator in operators}
_LEADING = (Cost.ATTENTION, Cost.NORMS)
"""What several operators in one are for, if one of them is for that."""


def is_copy(operator: str) -> bool:
    """Whether an operator, or each of several in one, only moves or converts data."""
    parts = operator.split(TOGETHER)
    return all(_KIND_OF.get(part) in (Cost.COPIES, Cost.CONVERSIONS) for part in parts)


def cost_of(node: NodeTime, in_layer: bool) -> Cost:
    """What a node is for; ``in_layer`` where it belongs to a quantised module."""
    parts = node.op_type.split(TOGETHER)
    known = [_KIND_OF.get(part) for part in parts]
    if is_copy(node.op_type):
        return Cost.CONVERSIONS if Cost.CONVERSIONS in known else Cost.COPIES
    for cost in _LEADING:
        if cost in known:
            return cost
    if in_layer:
        return Cost.PRODUCTS
    return Cost.ATTENTION if any("MatMul" in part for part in parts) else Cost.ELEMENTWISE
