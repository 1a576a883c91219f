"""GELU as one operator: ``MPQGelu``, and ``MPQGeglu`` where it is the gate of a linear unit.

``MPQGelu`` is ``Gelu``: input and output of one shape. ``MPQGeglu`` splits ``X [..., 2 * width]``
in two and multiplies the first half by the GELU of the second, ``Y [..., width]``, as diffusers'
feed-forward layers do; standard operators write and read both halves once more each. Both have the
attribute ``approximate`` of ``Gelu``: ``none`` (by erf) or ``tanh``; computed in float32.
"""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .fused_operator import FusedOperator
from .nodes import DOMAIN

GELU, GEGLU = "MPQGelu", "MPQGeglu"
_INPUTS = (("X", "T"),)
_ATTRIBUTES = {"approximate": OpSchema.AttrType.STRING}
_FORMS = ("none", "tanh")

_GELU = """
    x = Cast <to: int = 1> (X)
    y = Gelu <approximate: string = @approximate> (x)
    Y = CastLike (y, X)
"""
_GEGLU = """
    x = Cast <to: int = 1> (X)
    factor, gate = Split <axis: int = -1, num_outputs: int = 2> (x)
    opened = Gelu <approximate: string = @approximate> (gate)
    y = Mul (factor, opened)
    Y = CastLike (y, X)
"""


def _half_of_x(context: onnx.shape_inference.InferenceContext) -> None:
    x = context.get_input_type(0)
    if x is None:
        return
    y = onnx.TypeProto()
    y.CopyFrom(x)
    if y.tensor_type.HasField("shape") and y.tensor_type.shape.dim:
        last = y.tensor_type.shape.dim[-1]
        width = last.dim_value // 2 if last.HasField("dim_value") else None
        last.Clear()
        if width is not None:
            last.dim_value = width
    context.set_output_type(0, y)


GELU_OPERATORS = (
    FusedOperator(GELU, "GELU", _INPUTS, _ATTRIBUTES, _GELU),
    FusedOperator(GEGLU, "A linear unit gated by GELU", _INPUTS, _ATTRIBUTES, _GEGLU, _half_of_x),
)


def is_gelu(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type in (GELU, GEGLU)


def make_gelu(op_type: str, name: str, x: str, y: str, approximate: str) -> onnx.NodeProto:
    """The node of that name."""
    return helper.make_node(op_type, [x], [y], name=name, domain=DOMAIN, approximate=approximate)


def gelu_form(node: onnx.NodeProto) -> str:
    """Its ``approximate``; raises ContractError on a node that the schema does not allow."""
    (operator,) = (known for known in GELU_OPERATORS if known.name == node.op_type)
    form: bytes = operator.attributes_of(node)["approximate"]
    if form not in (name.encode() for name in _FORMS):
        raise ContractError(f"node {node.name}: approximate is {form!r}")
    return form.decode()
