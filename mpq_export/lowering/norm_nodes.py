"""Group normalisation as one operator: ``MPQGroupNorm`` and ``MPQGroupNormSiLU``, with bodies.

ONNX Runtime's CPU has no kernel for ``GroupNormalization`` and runs its definition, some twenty
operators; in a quantised model these cost more than the integer products. Inputs ``X [N, C, ...]``,
``scale [C]``, ``bias [C]``; attributes ``num_groups``, ``epsilon``; computed in float32. The second
operator multiplies the result by its sigmoid.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnx import defs
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .nodes import DOMAIN, OPSET, VERSION, exact_attributes

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


def is_norm(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type in (GROUP_NORM, GROUP_NORM_SILU)


def norm_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of such a node; raises ContractError on one that the schema does not allow."""
    if len(node.input) != len(_INPUTS) or len(node.output) != 1:
        raise ContractError(f"node {node.name} does not have three inputs and an output")
    return exact_attributes(node, _ATTRIBUTES)


@cache
def register_norm_schemas() -> None:
    """Make both known to onnx's checker and shape inference; once per process."""
    for op_type in (GROUP_NORM, GROUP_NORM_SILU):
        schema = OpSchema(
            op_type,
            DOMAIN,
            VERSION,
            doc=f"Group normalisation in one operator ({op_type}); see docs/format.md.",
            inputs=[OpSchema.FormalParameter(name, kind) for name, kind in _INPUTS],
            outputs=[OpSchema.FormalParameter("Y", "T", "Shape and type of X.")],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Activation type.")],
            attributes=[
                OpSchema.Attribute(name, kind, required=True) for name, kind in _ATTRIBUTES.items()
            ],
        )
        schema.set_type_and_shape_inference_function(_same_as_x)
        defs.register_schema(schema)


def _same_as_x(context: onnx.shape_inference.InferenceContext) -> None:
    if (x := context.get_input_type(0)) is not None:
        context.set_output_type(0, x)


@cache
def norm_bodies() -> tuple[onnx.FunctionProto, onnx.FunctionProto]:
    """The bodies of both in standard operators."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'
    bodies = tuple(
        onnx.parser.parse_function(
            f"{header} {op_type} <num_groups, epsilon> (X, scale, bias) => (Y) {{{text}}}"
        )
        for op_type, text in (
            (GROUP_NORM, _NORM.format(y="Y")),
            (GROUP_NORM_SILU, _NORM.format(y="normal") + _SILU),
        )
    )
    for body in bodies:
        body.doc_string = "Group normalisation in standard operators; see docs/format.md."
    return bodies[0], bodies[1]
