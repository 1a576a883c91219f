"""Adaptive layer normalisation as one operator, ``MPQAdaLayerNorm``, with its body.

What a diffusion transformer does before attention and before its feed-forward layers: every token
of ``X [N, T, C]`` is normalised over its channels, without parameters of its own, multiplied by
``scale`` and moved by ``shift``, both float32 ``[N or 1, 1, C]``, which come from the timestep.
Attribute ``epsilon``; computed in float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnx import defs, helper
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .nodes import DOMAIN, OPSET, VERSION, exact_attributes

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


def is_ada_layer_norm(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type == ADA_LAYER_NORM


def make_ada_layer_norm(
    name: str, inputs: tuple[str, str, str], y: str, epsilon: float
) -> onnx.NodeProto:
    """The node of that name; ``inputs`` are X, scale and shift."""
    return helper.make_node(ADA_LAYER_NORM, inputs, [y], name=name, domain=DOMAIN, epsilon=epsilon)


def ada_layer_norm_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Its attributes; raises ContractError on a node that the schema does not allow."""
    if len(node.input) != len(_INPUTS) or len(node.output) != 1:
        raise ContractError(f"node {node.name} does not have three inputs and an output")
    return exact_attributes(node, _ATTRIBUTES)


@cache
def register_layer_norm_schema() -> None:
    """Make it known to onnx's checker and shape inference; once per process."""
    schema = OpSchema(
        ADA_LAYER_NORM,
        DOMAIN,
        VERSION,
        doc="Adaptive layer normalisation; see docs/format.md.",
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
def layer_norm_body() -> onnx.FunctionProto:
    """Its body in standard operators."""
    body = onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]> '
        f"{ADA_LAYER_NORM} <epsilon> (X, scale, shift) => (Y) {{{_BODY}}}"
    )
    body.doc_string = "Adaptive layer normalisation in standard operators; see docs/format.md."
    return body
