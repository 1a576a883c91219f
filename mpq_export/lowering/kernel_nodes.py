"""``MPQLinear`` and ``MPQConv`` as TensorRT's plugins take them: in the GPU kernels' weight layout.

Domain ``trt.plugins``, version 1, which TensorRT ignores and ONNX Runtime's TensorRT provider looks
for. Inputs are those of the C interface's ``MpqLayer``, in its order, after X and the step::

    X, step_index, words, tile_begins, steps, scale, bias, row_sums, output_rows,
    act_scale, act_zero_point, input_factor, input_shift

and last, where there is one, the ``residual``, of Y's shape, that is added to Y. A plugin sees
constant inputs only when it runs, so all that it must know before is an attribute.
``docs/tensorrt.md`` specifies them for other implementers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper
from onnx.defs import OpSchema

from ..core.integer_reference import ConvGeometry, PackedLayer, check_layer
from ..core.kernel_layout import (
    BLOCK_COLUMNS,
    LAYOUT,
    TILE_ROWS,
    KernelLayer,
    column_blocks,
    from_kernel_layout,
    to_kernel_layout,
)
from ..core.planes import ContractError
from .nodes import CONV, LINEAR, RESIDUAL, exact_attributes, infer_conv, infer_linear

DOMAIN = "trt.plugins"
VERSION = 1
KERNEL_ARRAYS = (
    "words", "tile_begins", "steps", "scale", "bias", "row_sums", "output_rows",
)  # fmt: skip
TABLES = ("act_scale", "act_zero_point", "input_factor", "input_shift")
INPUTS = ("X", "step_index", *KERNEL_ARRAYS, *TABLES)
INPUT_TYPES = {
    "step_index": np.int32,
    "words": np.int32,
    "tile_begins": np.int32,
    "steps": np.int8,
    "scale": np.float32,
    "bias": np.float32,
    "row_sums": np.int32,
    "output_rows": np.int32,
    "act_scale": np.float32,
    "act_zero_point": np.int32,
    "input_factor": np.float32,
    "input_shift": np.int8,
}
_ONNX_TYPES = {np.int32: "tensor(int32)", np.int8: "tensor(int8)", np.float32: "tensor(float)"}
COMMON_ATTRIBUTES = {
    "act_bits": OpSchema.AttrType.INT,
    "top_shift": OpSchema.AttrType.INT,
    "plane_rows": OpSchema.AttrType.INTS,
    "K": OpSchema.AttrType.INT,
    "layout": OpSchema.AttrType.STRING,
    "plugin_version": OpSchema.AttrType.STRING,
    "plugin_namespace": OpSchema.AttrType.STRING,
}
CONV_ATTRIBUTES = {
    "kernel_shape": OpSchema.AttrType.INTS,
    "strides": OpSchema.AttrType.INTS,
    "pads": OpSchema.AttrType.INTS,
    "dilations": OpSchema.AttrType.INTS,
    "group": OpSchema.AttrType.INT,
}


def is_kernel_node(node: onnx.NodeProto) -> bool:
    """Whether the node is one of these."""
    return node.domain == DOMAIN and node.op_type in (LINEAR, CONV)


@contextmanager
def kernel_schemas() -> Iterator[None]:
    """Both operators are known to onnx's checker and shape inference, here and no longer.

    Torch's tracer takes no operators of one name in two domains.
    """
    _register()
    try:
        yield
    finally:
        for op_type in (LINEAR, CONV):
            defs.deregister_schema(op_type, VERSION, DOMAIN)


def _register() -> None:
    for op_type, attributes, infer in (
        (LINEAR, COMMON_ATTRIBUTES, infer_linear),
        (CONV, COMMON_ATTRIBUTES | CONV_ATTRIBUTES, infer_conv),
    ):
        schema = OpSchema(
            op_type,
            DOMAIN,
            VERSION,
            doc=f"Bit-plane quantised layer in kernel layout ({op_type}); see docs/tensorrt.md.",
            inputs=[
                OpSchema.FormalParameter("X", "T"),
                OpSchema.FormalParameter("step_index", "tensor(int32)"),
                *(
                    OpSchema.FormalParameter(name, _ONNX_TYPES[INPUT_TYPES[name]])
                    for name in (*KERNEL_ARRAYS, *TABLES)
                ),
                OpSchema.FormalParameter(
                    RESIDUAL, "T", param_option=OpSchema.FormalParameterOption.Optional
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


def make_kernel_node(
    name: str, layer: PackedLayer, x: str, step_index: str, y: str, residual: str | None = None
) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """The node of a layer that passes ``check_layer``, and the initializers it reads, by name."""
    kernel = to_kernel_layout(layer)
    arrays = {key: getattr(kernel, key) for key in KERNEL_ARRAYS}
    arrays |= {key: getattr(layer, key) for key in TABLES}
    attributes: dict[str, Any] = {
        "act_bits": layer.act_bits,
        "top_shift": int(layer.input_shift.max()),
        "plane_rows": layer.weight.plane_rows.tolist(),
        "K": layer.weight.columns,
        "layout": LAYOUT,
        "plugin_version": str(VERSION),
        "plugin_namespace": "",
    }
    if layer.conv is not None:
        for key in CONV_ATTRIBUTES:
            value = getattr(layer.conv, key)
            attributes[key] = value if isinstance(value, int) else list(value)
    inputs = [x, step_index, *(f"{name}.{key}" for key in INPUTS[2:])]
    if residual is not None:
        inputs.append(residual)
    node = helper.make_node(
        LINEAR if layer.conv is None else CONV, inputs, [y], name=name, domain=DOMAIN, **attributes
    )
    return node, {f"{name}.{key}": value for key, value in arrays.items()}


def read_kernel_layer(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> PackedLayer:
    """The canonical layer of a node in kernel layout; ``tensors`` are the graph's initializers.

    A residual is no part of it.
    Bringing it to the kernels' order again gives the node's own tensors, padding and sums included.

    Raises ContractError on a node that is malformed, breaks the contract, or stores anything else.
    """
    try:
        layer, stored = _layer_of(node, tensors)
        check_layer(layer)
    except (LookupError, ValueError, OverflowError) as error:
        raise ContractError(f"node {node.name}: {error}") from error
    again = to_kernel_layout(layer)
    for key in KERNEL_ARRAYS:
        # Bytes, so that no 0 passes for another.
        if getattr(again, key).tobytes() != stored[key].tobytes():
            raise ContractError(f"node {node.name}: {key} is not what its layer makes of it")
    return layer


def _layer_of(
    node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]
) -> tuple[PackedLayer, dict[str, np.ndarray]]:
    kinds = COMMON_ATTRIBUTES | (CONV_ATTRIBUTES if node.op_type == CONV else {})
    attributes = exact_attributes(node, kinds)
    if attributes["layout"] != LAYOUT.encode():
        raise ContractError(f"the layout is {attributes['layout']!r}, not {LAYOUT}")
    own, residual = node.input[2 : len(INPUTS)], node.input[len(INPUTS) :]
    if len(residual) > 1:
        raise ContractError(f"it has {len(node.input)} inputs")
    data = dict(zip(INPUTS[2:], (tensors[name] for name in own), strict=True))
    for key, value in data.items():
        if value.dtype != INPUT_TYPES[key]:
            raise ContractError(f"{key} is {value.dtype}")
    conv = None
    if node.op_type == CONV:
        conv = ConvGeometry(
            tuple(attributes["kernel_shape"]),
            tuple(attributes["strides"]),
            tuple(attributes["pads"]),
            tuple(attributes["dilations"]),
            attributes["group"],
        )
    kernel = _kernel_layer(data, attributes, conv)
    layer = PackedLayer(
        from_kernel_layout(kernel),
        _in_output_order(kernel),
        data["act_scale"],
        data["act_zero_point"],
        attributes["act_bits"],
        data["input_factor"],
        data["input_shift"],
        conv,
    )
    if attributes["top_shift"] != layer.input_shift.max(initial=0):
        raise ContractError("top_shift is not its largest shift")
    return layer, data


def _kernel_layer(
    data: Mapping[str, np.ndarray], attributes: Mapping[str, Any], conv: ConvGeometry | None
) -> KernelLayer:
    """The stored rows, their shapes as the attributes say: nothing is unpacked by numbers alone."""
    plane_rows = np.array(attributes["plane_rows"], np.int32)
    taps, group = (1, 1) if conv is None else (int(np.prod(conv.kernel_shape)), conv.group)
    rows, planes, columns = int(plane_rows[0]), len(plane_rows), attributes["K"]
    if min(rows, columns, taps, group) < 1 or columns % taps or rows % group or planes > 8:
        raise ContractError("its sizes are none of a layer")
    padded = group * -(-(rows // group) // TILE_ROWS) * TILE_ROWS
    begins, blocks = data["tile_begins"], column_blocks(columns, taps)
    shapes = {
        "words": (int(begins[-1]) * blocks * BLOCK_COLUMNS,),
        "tile_begins": (padded // TILE_ROWS + 1,),
        "steps": (1 + planes, padded),
        "scale": (padded,),
        "bias": (padded,),
        "row_sums": (2, padded),
        "output_rows": (padded,),
    }
    for key, shape in shapes.items():
        if data[key].shape != shape:
            raise ContractError(f"{key} has shape {data[key].shape}, not {shape}")
    counts, output_rows = np.diff(begins), data["output_rows"]
    if begins[0] != 0 or counts.min() < 1 or counts.max() > planes:
        raise ContractError("tile_begins are no sums of planes")
    if not np.array_equal(np.sort(output_rows[output_rows >= 0]), np.arange(rows)):
        raise ContractError("output_rows are no permutation")
    own = {key: data[key] for key in KERNEL_ARRAYS}
    return KernelLayer(**own, plane_rows=plane_rows, columns=columns, taps=taps, group=group)


def _in_output_order(kernel: KernelLayer) -> np.ndarray:
    bias = np.empty(int(kernel.plane_rows[0]), np.float32)
    real = kernel.output_rows >= 0
    bias[kernel.output_rows[real]] = kernel.bias[real]
    return bias


def _with_rows(infer: Callable[..., None]) -> Callable[..., None]:
    return lambda context: infer(context, _rows(context))


def _rows(context: onnx.shape_inference.InferenceContext) -> int | None:
    """O: every row has the first plane."""
    plane_rows = context.get_attribute("plane_rows")
    return plane_rows.ints[0] if plane_rows is not None and plane_rows.ints else None
