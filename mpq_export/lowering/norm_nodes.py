"""Group normalisation as one operator: ``MPQGroupNorm`` and ``MPQGroupNormSiLU``, with bodies.

ONNX Runtime's CPU has no kernel for ``GroupNormalization`` and runs its definition, some twenty
operators; in a quantised model these cost more than the integer products. Inputs ``X [N, C, ...]``,
``scale [C]``, ``bias [C]``; attributes ``num_groups``, ``epsilon``; computed in float32. The second
operator multiplies the result by its sigmoid.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx.defs import OpSchema

from .fused_operator import FusedOperator
from .nodes import DOMAIN

GROUP_NORM, GROUP_NORM_SILU = "MPQGroupNorm", "MPQGroupNormSiLU"
_INPUTS = (("X", "T"), ("scale", "tensor(float)"), ("bias", "tensor(float)"))
_ATTRIBUTES = {"num_groups": OpSchema.AttrType.INT, "epsilon": OpSchema.AttrType.FLOAT}

_NORM = """
    scale_like = CastLike (scale, X)
    bias_like = CastLike (bias, X)
    {y} = GroupNormalization <num_groups: int = @num_groups, epsilon: float = @epsilon>
          (X, scale_like, bias_like)
"""
_SILU = """
    gate = Sigmoid (normal)
    Y = Mul (normal, gate)
"""


NORM_OPERATORS = tuple(
    FusedOperator(name, "Group normalisation", _INPUTS, _ATTRIBUTES, body)
    for name, body in (
        (GROUP_NORM, _NORM.format(y="Y")),
        (GROUP_NORM_SILU, _NORM.format(y="normal") + _SILU),
    )
)


def is_norm(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type in (GROUP_NORM, GROUP_NORM_SILU)


def norm_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of such a node; raises ContractError on one that the schema does not allow."""
    (operator,) = (known for known in NORM_OPERATORS if known.name == node.op_type)
    return operator.attributes_of(node)
