"""GELU as one operator: ``MPQGelu``, and ``MPQGeglu`` where it is the gate of a linear unit.

``MPQGelu`` is ``Gelu``: input and output of one shape. ``MPQGeglu`` splits ``X [..., 2 * width]``
in two and multiplies the first half by the GELU of the second, ``Y [..., width]``, as diffusers'
feed-forward layers do; standard operators write and read both halves once more each. Both have the
attribute ``approximate`` of ``Gelu``: ``none`` (by erf) or ``tanh``; computed in float32.
"""

from __future__ import annotations

from functools import cache

import onnx
from onnx import defs, helper
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .nodes import DOMAIN, OPSET, VERSION, exact_attributes

GELU, GEGLU = "MPQGelu", "MPQGeglu"
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


def is_gelu(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type in (GELU, GEGLU)


def make_gelu(op_type: str, name: str, x: str, y: str, approximate: str) -> onnx.NodeProto:
    """The node of that name."""
    return helper.make_node(op_type, [x], [y], name=name, domain=DOMAIN, approximate=approximate)


def gelu_form(node: onnx.NodeProto) -> str:
    """Its ``approximate``; raises ContractError on a node that the schema does not allow."""
    if len(node.input) != 1 or len(node.output) != 1:
        raise ContractError(f"node {node.name} does not have an input and an output")
    form: bytes = exact_attributes(node, _ATTRIBUTES)["approximate"]
    if form not in (name.encode() for name in _FORMS):
        raise ContractError(f"node {node.name}: approximate is {form!r}")
    return form.decode()


@cache
def register_gelu_schemas() -> None:
    """Make both known to onnx's checker and shape inference; once per process."""
    for op_type, infer in ((GELU, _same_as_x), (GEGLU, _half_of_x)):
        schema = OpSchema(
            op_type,
            DOMAIN,
            VERSION,
            doc=f"GELU in one operator ({op_type}); see docs/format.md.",
            inputs=[OpSchema.FormalParameter("X", "T")],
            outputs=[OpSchema.FormalParameter("Y", "T", "Type of X.")],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Activation type.")],
            attributes=[
                OpSchema.Attribute(name, kind, required=True) for name, kind in _ATTRIBUTES.items()
            ],
        )
        schema.set_type_and_shape_inference_function(infer)
        defs.register_schema(schema)


def _same_as_x(context: onnx.shape_inference.InferenceContext) -> None:
    if (x := context.get_input_type(0)) is not None:
        context.set_output_type(0, x)


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


@cache
def gelu_bodies() -> tuple[onnx.FunctionProto, onnx.FunctionProto]:
    """The bodies of both in standard operators."""
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'
    gelu, geglu = (
        onnx.parser.parse_function(f"{header} {op_type} <approximate> (X) => (Y) {{{text}}}")
        for op_type, text in ((GELU, _GELU), (GEGLU, _GEGLU))
    )
    for body in (gelu, geglu):
        body.doc_string = "GELU in standard operators; see docs/format.md."
    return gelu, geglu
