"""An operator that says in one node what standard operators say in many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import defs
from onnx.defs import OpSchema

from ..core.planes import ContractError
from .nodes import DOMAIN, OPSET, VERSION, exact_attributes

_Infer = Callable[[onnx.shape_inference.InferenceContext], None]


def same_as_first(context: onnx.shape_inference.InferenceContext) -> None:
    """The output has the first input's type and shape."""
    if (first := context.get_input_type(0)) is not None:
        context.set_output_type(0, first)


@dataclass(frozen=True)
class FusedOperator:
    """An operator of domain ``mpq`` with one output, ``Y``, of the first input's type.

    Attributes:
        name: its ``op_type``.
        summary: what it is, in a few words.
        inputs: their names, and types; ``T`` is float or float16.
        attributes: their types; all are required.
        body: what it computes in standard operators, in onnx's text form.
        infer: sets the output's type and shape.
    """

    name: str
    summary: str
    inputs: tuple[tuple[str, str], ...]
    attributes: Mapping[str, OpSchema.AttrType]
    body: str
    infer: _Infer = same_as_first

    def attributes_of(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The attributes of such a node.

        Raises ContractError unless it has exactly the schema's inputs, output and attributes:
        another runtime's operator would take more of them, and they would mean something there.
        """
        if len(node.input) != len(self.inputs) or len(node.output) != 1:
            raise ContractError(
                f"node {node.name} is not {self.name} of version {VERSION}: it has "
                f"{len(node.input)} inputs and {len(node.output)} outputs"
            )
        try:
            return exact_attributes(node, self.attributes)
        except ContractError as error:
            raise ContractError(
                f"node {node.name} is not {self.name} of version {VERSION}: {error}"
            ) from error

    def register(self) -> None:
        """Make it known to onnx's checker and shape inference; once per process."""
        schema = OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            doc=f"{self.summary} ({self.name}); see docs/format.md.",
            inputs=[OpSchema.FormalParameter(name, kind) for name, kind in self.inputs],
            outputs=[OpSchema.FormalParameter("Y", "T")],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Activation type.")],
            attributes=[
                OpSchema.Attribute(name, kind, required=True)
                for name, kind in self.attributes.items()
            ],
        )
        schema.set_type_and_shape_inference_function(self.infer)
        defs.register_schema(schema)

    def function(self) -> onnx.FunctionProto:
        """Its body, for a model's ``functions``."""
        inputs = ", ".join(name for name, _ in self.inputs)
        body = onnx.parser.parse_function(
            f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]> '
            f"{self.name} <{', '.join(self.attributes)}> ({inputs}) => (Y) {{{self.body}}}"
        )
        body.doc_string = f"{self.summary} in standard operators; see docs/format.md."
        return body
