"""Adaptive layer normalisation as one operator, ``MPQAdaLayerNorm``, with its body.

What a diffusion transformer does before attention and before its feed-forward layers: every token
of ``X [N, T, C]`` is normalised over its channels, without parameters of its own, multiplied by
``scale`` and moved by ``shift``, both float32 ``[N or 1, 1, C]``, which come from the timestep.
Attribute ``epsilon``; computed in float32.
"""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.defs import OpSchema

from .fused_operator import FusedOperator
from .nodes import DOMAIN

ADA_LAYER_NORM = "MPQAdaLayerNorm"
_INPUTS = (("X", "T"), ("scale", "tensor(float)"), ("shift", "tensor(float)"))
_ATTRIBUTES = {"epsilon": OpSchema.AttrType.FLOAT}
_BODY = """
    x = Cast <to: int = 1> (X)
    channels = Shape <start: int = -1> (X)
    one = Constant <value_float: float = 1.0> ()
    ones = Expand (one, channels)
    normal = LayerNormalization <axis: int = -1, epsilon: float = @epsilon> (x, ones)
    scaled = Mul (normal, scale)
    moved = Add (scaled, shift)
    Y = CastLike (moved, X)
"""


ADA_LAYER_NORM_OPERATOR = FusedOperator(
    ADA_LAYER_NORM, "Adaptive layer normalisation", _INPUTS, _ATTRIBUTES, _BODY
)


def is_ada_layer_norm(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type == ADA_LAYER_NORM


def make_ada_layer_norm(
    name: str, inputs: tuple[str, str, str], y: str, epsilon: float
) -> onnx.NodeProto:
    """The node of that name; ``inputs`` are X, scale and shift."""
    return helper.make_node(ADA_LAYER_NORM, inputs, [y], name=name, domain=DOMAIN, epsilon=epsilon)
