"""The ONNX operators ``MPQLinear`` and ``MPQConv``: schemas, and nodes to and from packed layers.

Domain ``mpq``, version 1. Inputs, present in every node because TensorRT refuses empty ones::

    X, step_index, act_scale, act_zero_point, planes, steps, scale, row_order, bias,
    input_factor, input_shift

and after them, where there is one, the ``residual`` that is added to Y. ``docs/format.md``
specifies them for other implementers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper
from onnx.defs import OpSchema

from ..core.integer_reference import ConvGeometry, PackedLayer, check_layer
from ..core.planes import ContractError, PackedMatrix

DOMAIN = "mpq"
VERSION = 1
OPSET = 21
IR_VERSION = 10
LINEAR, CONV = "MPQLinear", "MPQConv"
CANONICAL = "canonical"
INPUTS = (
    "X",
    "step_index",
    "act_scale",
    "act_zero_point",
    "planes",
    "steps",
    "scale",
    "row_order",
    "bias",
    "input_factor",
    "input_shift",
)
RESIDUAL = "residual"
"""The input after these, and the overload of the nodes that have it: function bodies are chosen by
overload, and what may be absent cannot be added."""
_INPUT_TYPES = {
    "X": "T",
    "step_index": "tensor(int32)",
    "act_scale": "tensor(float)",
    "act_zero_point": "tensor(int32)",
    "planes": "tensor(int32)",
    "steps": "tensor(int8)",
    "scale": "tensor(float)",
    "row_order": "tensor(int32)",
    "bias": "tensor(float)",
    "input_factor": "tensor(float)",
    "input_shift": "tensor(int8)",
}
_INPUT_DOCS = {
    "X": "Activations: [..., K] for MPQLinear, NCHW for MPQConv.",
    "step_index": "[1], row of the activation tables.",
    "act_scale": "[T], activation step per sampler step.",
    "act_zero_point": "[T], activation zero point per sampler step.",
    "planes": "[sum(plane_rows), ceil(K/32)], bit planes, plane-major, rows sorted by plane count.",
    "steps": "[1+P, O], offset and plane steps, sorted rows.",
    "scale": "[O], weight scale, sorted rows.",
    "row_order": "[O], output channel of sorted row j.",
    "bias": "[O], output channel order.",
    "input_factor": "[I], multiplied with X before it is quantised.",
    "input_shift": "[I], power of two per input channel.",
}
_COMMON_ATTRIBUTES = {
    "act_bits": OpSchema.AttrType.INT,
    "plane_rows": OpSchema.AttrType.INTS,
    "K": OpSchema.AttrType.INT,
    "layout": OpSchema.AttrType.STRING,
    "plugin_version": OpSchema.AttrType.STRING,
    "plugin_namespace": OpSchema.AttrType.STRING,
}
_CONV_ATTRIBUTES = {
    "kernel_shape": OpSchema.AttrType.INTS,
    "strides": OpSchema.AttrType.INTS,
    "pads": OpSchema.AttrType.INTS,
    "dilations": OpSchema.AttrType.INTS,
    "group": OpSchema.AttrType.INT,
}
_ATTRIBUTE_TYPES = {
    OpSchema.AttrType.FLOAT: onnx.AttributeProto.FLOAT,
    OpSchema.AttrType.INT: onnx.AttributeProto.INT,
    OpSchema.AttrType.INTS: onnx.AttributeProto.INTS,
    OpSchema.AttrType.STRING: onnx.AttributeProto.STRING,
}


def is_mpq(node: onnx.NodeProto) -> bool:
    """Whether the node is one of ours."""
    return node.domain == DOMAIN and node.op_type in (LINEAR, CONV)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds as attributes (branches and loop bodies)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of their subgraphs at every depth."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


@cache
def register_schemas() -> None:
    """Make both operators known to onnx's checker and shape inference; once per process."""
    for op_type, attributes, infer in (
        (LINEAR, _COMMON_ATTRIBUTES, infer_linear),
        (CONV, _COMMON_ATTRIBUTES | _CONV_ATTRIBUTES, infer_conv),
    ):
        schema = OpSchema(
            op_type,
            DOMAIN,
            VERSION,
            doc=f"Bit-plane quantised layer ({op_type}); see docs/format.md.",
            inputs=[
                *(
                    OpSchema.FormalParameter(name, _INPUT_TYPES[name], _INPUT_DOCS[name])
                    for name in INPUTS
                ),
                OpSchema.FormalParameter(
                    RESIDUAL,
                    "T",
                    "Added to Y: of its shape, or [N or 1, O, 1, 1] for MPQConv.",
                    param_option=OpSchema.FormalParameterOption.Optional,
                ),
            ],
            outputs=[OpSchema.FormalParameter("Y", "T", "Output, type of X.")],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Activation type.")],
            attributes=[
                OpSchema.Attribute(name, kind, required=True) for name, kind in attributes.items()
            ],
        )
        schema.set_type_and_shape_inference_function(_with_rows(infer))
        defs.register_schema(schema)


def make_node(
    name: str, layer: PackedLayer, x: str, step_index: str, y: str
) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """The node of a packed layer in canonical layout, and the initializers it reads, by name.

    ``name`` becomes the node's name and the prefix of its initializers.
    """
    weight = layer.weight
    arrays: dict[str, np.ndarray] = {
        "act_scale": layer.act_scale,
        "act_zero_point": layer.act_zero_point,
        "planes": weight.planes,
        "steps": weight.steps,
        "scale": weight.scale,
        "row_order": weight.row_order,
        "bias": layer.bias,
        "input_factor": layer.input_factor,
        "input_shift": layer.input_shift,
    }
    attributes: dict[str, Any] = {
        "act_bits": layer.act_bits,
        "plane_rows": weight.plane_rows.tolist(),
        "K": weight.columns,
        "layout": CANONICAL,
        "plugin_version": str(VERSION),
        "plugin_namespace": "",
    }
    if layer.conv is not None:
        attributes |= {
            "kernel_shape": list(layer.conv.kernel_shape),
            "strides": list(layer.conv.strides),
            "pads": list(layer.conv.pads),
            "dilations": list(layer.conv.dilations),
            "group": layer.conv.group,
        }
    inputs = [x, step_index, *(f"{name}.{key}" for key in INPUTS[2:])]
    node = helper.make_node(
        LINEAR if layer.conv is None else CONV, inputs, [y], name=name, domain=DOMAIN, **attributes
    )
    return node, {f"{name}.{key}": arrays[key] for key in INPUTS[2:]}


def with_residual(node: onnx.NodeProto, residual: str, y: str) -> onnx.NodeProto:
    """A packed node that adds ``residual`` to what it computes, and gives the sum as ``y``."""
    added = onnx.NodeProto()
    added.CopyFrom(node)
    added.input.append(residual)
    added.output[0], added.overload = y, RESIDUAL
    return added


def residual_of(node: onnx.NodeProto) -> str | None:
    """The tensor that a packed node adds to what it computes.

    Raises ContractError on a node of other inputs or outputs than those of the schema.
    """
    count, overload = (len(INPUTS) + 1, RESIDUAL) if node.overload else (len(INPUTS), "")
    if (len(node.input), node.overload) != (count, overload) or not all(node.input):
        raise ContractError(f"node {node.name}: its inputs are not those of {node.op_type}")
    if len(node.output) != 1:
        raise ContractError(f"node {node.name} has {len(node.output)} outputs")
    return node.input[-1] if node.overload else None


def require_packed(node: onnx.NodeProto) -> None:
    """Raise ContractError on a packed node that its schema does not allow."""
    try:
        attributes_of(node)
    except ContractError as error:
        raise ContractError(f"node {node.name}: {error}") from error
    residual_of(node)


def read_layer(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> PackedLayer:
    """The packed layer of a node in canonical layout; ``tensors`` are the graph's initializers.

    A residual is no part of the layer.

    Raises ContractError on a node that is malformed or breaks the contract: nothing may be unpacked
    by the numbers of a file alone.
    """
    residual_of(node)
    try:
        layer = _layer_of(node, tensors)
        check_layer(layer)
    except (LookupError, ValueError, OverflowError) as error:
        raise ContractError(f"node {node.name}: {error}") from error
    return layer


def _layer_of(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> PackedLayer:
    attributes = attributes_of(node)
    if attributes["layout"] != CANONICAL.encode():
        raise ContractError(f"the layout is {attributes['layout']!r}")
    own = node.input[2 : len(INPUTS)]
    data = dict(zip(INPUTS[2:], (tensors[name] for name in own), strict=True))
    conv = None
    if node.op_type == CONV:
        conv = ConvGeometry(
            tuple(attributes["kernel_shape"]),
            tuple(attributes["strides"]),
            tuple(attributes["pads"]),
            tuple(attributes["dilations"]),
            attributes["group"],
        )
    weight = PackedMatrix(
        data["planes"],
        np.array(attributes["plane_rows"], np.int32),
        data["steps"],
        data["scale"],
        data["row_order"],
        attributes["K"],
    )
    return PackedLayer(
        weight,
        data["bias"],
        data["act_scale"],
        data["act_zero_point"],
        attributes["act_bits"],
        data["input_factor"],
        data["input_shift"],
        conv,
    )


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a packed node; raises ContractError as :func:`exact_attributes` does."""
    kinds = _COMMON_ATTRIBUTES | (_CONV_ATTRIBUTES if node.op_type == CONV else {})
    return exact_attributes(node, kinds)


def exact_attributes(
    node: onnx.NodeProto, kinds: Mapping[str, OpSchema.AttrType]
) -> dict[str, Any]:
    """The values of exactly the attributes that a schema names, each of the schema's type.

    Raises ContractError on a node that has others; ONNX Runtime would not look at them.
    """
    found = {attribute.name: attribute.type for attribute in node.attribute}
    if len(found) != len(node.attribute) or found != {
        key: _ATTRIBUTE_TYPES[kind] for key, kind in kinds.items()
    }:
        raise ContractError(f"its attributes are not those of {node.op_type}")
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def arrays_of(tensors: Iterable[onnx.TensorProto]) -> dict[str, np.ndarray]:
    """Tensors by name; raises ContractError on one whose data do not fill its shape."""
    arrays = {}
    for tensor in tensors:
        try:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
        except Exception as error:  # whatever the type and the data make of one another
            raise ContractError(f"tensor {tensor.name} cannot be read: {error}") from error
    return arrays


def model_from_graph(
    graph: onnx.GraphProto, functions: Sequence[onnx.FunctionProto] = (), with_mpq: bool = True
) -> onnx.ModelProto:
    """A model with the project's opset, IR version and producer."""
    opsets = [helper.make_opsetid("", OPSET)]
    if with_mpq:
        opsets.append(helper.make_opsetid(DOMAIN, VERSION))
    return helper.make_model(
        graph,
        opset_imports=opsets,
        functions=functions,
        ir_version=IR_VERSION,
        producer_name="mpq-export",
    )


def infer_linear(context: onnx.shape_inference.InferenceContext, rows: int | None) -> None:
    """The type of ``MPQLinear``'s output, of which there may be more than one form."""
    x = context.get_input_type(0)
    if x is None:
        return
    y = onnx.TypeProto()
    y.CopyFrom(x)
    if x.tensor_type.HasField("shape") and x.tensor_type.shape.dim:
        y.tensor_type.shape.dim[-1].Clear()
        if rows is not None:
            y.tensor_type.shape.dim[-1].dim_value = rows
    context.set_output_type(0, y)


def infer_conv(context: onnx.shape_inference.InferenceContext, rows: int | None) -> None:
    """The type of ``MPQConv``'s output, likewise."""
    x = context.get_input_type(0)
    if x is None:
        return
    y = onnx.TypeProto()
    y.tensor_type.elem_type = x.tensor_type.elem_type
    if x.tensor_type.HasField("shape") and len(x.tensor_type.shape.dim) == 4:
        kernel_shape, strides, pads, dilations = (
            tuple(context.get_attribute(name).ints)
            for name in ("kernel_shape", "strides", "pads", "dilations")
        )
        conv = ConvGeometry(kernel_shape, strides, pads, dilations)
        dims = x.tensor_type.shape.dim
        shape = y.tensor_type.shape
        shape.dim.add().CopyFrom(dims[0])
        channel = shape.dim.add()
        if rows is not None:
            channel.dim_value = rows
        known = [d.dim_value if d.HasField("dim_value") else None for d in dims[2:]]
        sizes = conv.output_size(known[0] or 0, known[1] or 0)
        for size, source in zip(sizes, known, strict=True):
            target = shape.dim.add()
            if source is not None:
                target.dim_value = size
    context.set_output_type(0, y)


def _with_rows(infer: Callable[..., None]) -> Callable[..., None]:
    return lambda context: infer(context, _rows(context))


def _rows(context: onnx.shape_inference.InferenceContext) -> int | None:
    """O, from the shape of ``row_order``."""
    row_order = context.get_input_type(INPUTS.index("row_order")).tensor_type
    if not row_order.HasField("shape") or not row_order.shape.dim[0].HasField("dim_value"):
        return None
    return row_order.shape.dim[0].dim_value
