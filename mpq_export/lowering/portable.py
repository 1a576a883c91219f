"""The portable form: every MPQ node rewritten to standard operators on int8 weights.

``QuantizeLinear -> (transpose, pad, slices) -> MatMulInteger -> correction -> scale, bias``. It is
the ``onnx`` target, and what the ``ort`` target runs as until a native library is registered.
Exactness is claimed for ONNX Runtime on the CPU.

``MatMulInteger`` with uint8 activations and int8 weights saturates on x86 processors without VNNI
unless the activations stay below 128 or the session sets ``session.x64quantprecision=1``.
:class:`WeightType` chooses accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..core.integer_reference import ConvGeometry, PackedLayer, column_factors
from ..core.planes import ContractError, unpack
from .attention_nodes import is_attention
from .gelu_fusion import expanded_gelu
from .gelu_nodes import is_gelu
from .graph import Graph
from .half_precision import is_half
from .layer_norm_fusion import expanded_layer_norm
from .layer_norm_nodes import is_ada_layer_norm
from .nodes import all_nodes, is_mpq, read_layer, subgraphs
from .norm_fusion import expanded_norm
from .norm_nodes import is_norm
from .residual_fusion import expanded_residual
from .unread import read_values

_TO_THE_END = np.iinfo(np.int64).max


class WeightType(Enum):
    """How the integer weights are handed to ``MatMulInteger``."""

    PORTABLE = "portable"
    """int8, or uint8 around 128 where activations exceed 127: exact everywhere."""
    INT8 = "int8"
    """Always int8: faster, exact only with ``session.x64quantprecision=1`` or VNNI."""


def to_portable(graph: Graph, weight_type: WeightType) -> Graph:
    """A graph without packed nodes; names of all other tensors stay as they were.

    ``MPQAttention`` holds no integers: it stays for the runtime that takes the graph.

    Raises ContractError on a node that breaks the contract, or stands in a subgraph.
    """
    values, half = graph.values(), is_half(graph)
    builder = _Builder()
    for node in graph.model.graph.node:
        if is_mpq(node):
            layer, *residual = expanded_residual(node)
            _rewrite(builder, layer, values, weight_type, half)
            builder.nodes.extend(residual)
        elif is_norm(node):
            builder.nodes.extend(expanded_norm(node))
        elif is_gelu(node):
            builder.nodes.extend(expanded_gelu(node))
        elif is_ada_layer_norm(node):
            builder.nodes.extend(expanded_layer_norm(node))
        else:
            builder.nodes.append(node)
        _require_none_inside(node)
    outputs = [output.name for output in graph.model.graph.output]
    kept = read_values(values, builder.nodes, outputs)
    return graph.with_nodes(
        builder.nodes, kept | builder.initializers, with_mpq=any(map(is_attention, builder.nodes))
    )


def _require_none_inside(node: onnx.NodeProto) -> None:
    inner = all_nodes(inner for graph in subgraphs(node) for inner in graph.node)
    if any(map(is_mpq, inner)):
        raise ContractError(f"node {node.name} holds packed nodes in a subgraph")


def layer_input(model: onnx.ModelProto, layer: str) -> str | None:
    """The tensor that enters a rewritten layer; the node called like the layer gives its output."""
    nodes = {node.name: node for node in model.graph.node}
    if (widened := nodes.get(f"{layer}/float")) is not None:
        # ONNX Runtime's CPU computes most operators in float32 even where the graph says float16,
        # and skips the rounding between them: only this is what the layer really gets.
        return widened.output[0]
    entry = nodes.get(f"{layer}/scaled") or nodes.get(f"{layer}/quantized")
    return entry.input[0] if entry is not None else None


class _Builder:
    """Collects nodes and initializers; constants of equal value are shared by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, name: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output, called like the node unless named, and return its name."""
        output = output or name
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def tensor(self, name: str, value: np.ndarray) -> str:
        """An initializer of the given name."""
        self.initializers[name] = np.ascontiguousarray(value)
        return name

    def ints(self, *values: int) -> str:
        """A shared int64 vector."""
        return self.tensor("mpq.ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: np.generic) -> str:
        """A shared scalar."""
        return self.tensor(f"mpq.{value.dtype}_{value}", np.asarray(value))


def _rewrite(
    b: _Builder,
    node: onnx.NodeProto,
    tensors: Mapping[str, np.ndarray],
    weight_type: WeightType,
    half: bool,
) -> None:
    layer, at = read_layer(node, tensors), node.name
    conv, matrix = layer.conv, unpack(layer.weight)
    integers = matrix.integers()
    step = b.op("Squeeze", node.input[1], name=f"{at}/step")
    scale = b.op("Gather", b.tensor(f"{at}.act_scale", layer.act_scale), step, name=f"{at}/scale")
    zero_points = b.tensor(f"{at}.act_zero_point_u8", layer.act_zero_point.astype(np.uint8))
    zero_point = b.op("Gather", zero_points, step, name=f"{at}/zero_point")

    x = node.input[0]
    if half:
        x = b.op("Cast", x, name=f"{at}/float", to=TensorProto.FLOAT)
    codes = _codes(b, at, layer, x, scale, zero_point)
    columns = codes if conv is None else _patches(b, at, conv, codes)
    acc = _sums(b, at, layer, columns, integers, weight_type)

    shift = column_factors(layer.input_shift.astype(np.int32), conv, layer.weight.rows)
    row_sums = b.tensor(
        f"{at}.row_sums", (integers.astype(np.int32) << shift).sum(axis=1, dtype=np.int32)
    )
    zero_point_int = b.op("Cast", zero_point, name=f"{at}/zero_point_int", to=TensorProto.INT32)
    correction = b.op("Mul", row_sums, zero_point_int, name=f"{at}/correction")
    exact = b.op("Sub", acc, correction, name=f"{at}/accumulator")
    as_float = b.op("Cast", exact, name=f"{at}/accumulator_float", to=TensorProto.FLOAT)
    weight_scale = b.tensor(f"{at}.weight_scale", matrix.scale)
    combined = b.op("Mul", scale, weight_scale, name=f"{at}/combined_scale")
    product = b.op("Mul", as_float, combined, name=f"{at}/product")
    bias = b.tensor(f"{at}.bias", layer.bias)
    last: list[tuple[str, list[str], dict[str, Any]]] = [("Add", [product, bias], {})]
    if conv is not None:
        last.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if half:
        last.append(("CastLike", [node.input[0]], {}))
    result = ""
    for index, (op_type, others, attributes) in enumerate(last):
        inputs = [result, *others] if result else others
        is_last = index == len(last) - 1
        name, output = (at, node.output[0]) if is_last else (f"{at}/{op_type.lower()}", "")
        result = b.op(op_type, *inputs, name=name, output=output, **attributes)


def _codes(b: _Builder, at: str, layer: PackedLayer, x: str, scale: str, zero_point: str) -> str:
    """``code << e``, uint8; for a convolution channels last and padded with the zero point."""
    conv = layer.conv
    if np.any(layer.input_factor != 1):
        channel = (-1,) if conv is None else (-1, 1, 1)
        factor = b.tensor(f"{at}.input_factor", layer.input_factor.reshape(channel))
        x = b.op("Mul", x, factor, name=f"{at}/scaled")
    codes = b.op("QuantizeLinear", x, scale, zero_point, name=f"{at}/quantized")
    if layer.act_bits < 8:
        lowest, top = b.scalar(np.uint8(0)), b.scalar(np.uint8(2**layer.act_bits - 1))
        codes = b.op("Clip", codes, lowest, top, name=f"{at}/codes")
    if conv is not None:
        codes = b.op("Transpose", codes, name=f"{at}/channels_last", perm=[0, 2, 3, 1])
        if any(conv.pads):
            top_left_bottom_right, axes = b.ints(*conv.pads), b.ints(1, 2)
            codes = b.op("Pad", codes, top_left_bottom_right, zero_point, axes, name=f"{at}/padded")
    if np.any(layer.input_shift):
        shift = b.tensor(f"{at}.input_shift_u8", layer.input_shift.astype(np.uint8))
        codes = b.op("BitShift", codes, shift, name=f"{at}/shifted", direction="LEFT")
    return codes


def _patches(b: _Builder, at: str, conv: ConvGeometry, codes: str) -> str:
    """Padded ``[N, H, W, I]`` to ``[N, H', W', K]``; with groups to ``[N, G, H', W', K]``."""
    (kh, kw), (dh, dw) = conv.kernel_shape, conv.dilations
    if (kh, kw) == (1, 1) and conv.strides == (1, 1):
        taps = [codes]
    else:
        # Window position i of a tap starts at tap * dilation and leaves room for the later taps.
        taps = [
            b.op(
                "Slice",
                codes,
                b.ints(row * dh, column * dw),
                b.ints((row - kh + 1) * dh or _TO_THE_END, (column - kw + 1) * dw or _TO_THE_END),
                b.ints(1, 2),
                b.ints(*conv.strides),
                name=f"{at}/tap_{row}_{column}",
            )
            for row in range(kh)
            for column in range(kw)
        ]
    if conv.group > 1:
        split = b.ints(0, 0, 0, conv.group, -1)
        taps = [b.op("Reshape", tap, split, name=f"{tap}/grouped") for tap in taps]
    patches = taps[0]
    if len(taps) > 1:
        patches = b.op("Concat", *taps, name=f"{at}/patches", axis=-1)
    if conv.group > 1:
        patches = b.op("Transpose", patches, name=f"{at}/by_group", perm=[0, 3, 1, 2, 4])
    return patches


def _sums(
    b: _Builder,
    at: str,
    layer: PackedLayer,
    columns: str,
    integers: np.ndarray,
    weight_type: WeightType,
) -> str:
    """``sum_k (code << e) * w_int``, int32 ``[..., O]``."""
    group = 1 if layer.conv is None else layer.conv.group
    weight = (
        integers.T
        if group == 1
        else integers.reshape(group, 1, -1, integers.shape[1]).swapaxes(2, 3)
    )
    largest = int(((2**layer.act_bits - 1) << layer.input_shift.astype(np.int64)).max())
    if weight_type is WeightType.INT8 or largest <= 127:
        stored = b.tensor(f"{at}.weight", weight)
        acc = b.op("MatMulInteger", columns, stored, name=f"{at}/products")
    else:
        around_128 = (weight.astype(np.int16) + 128).astype(np.uint8)
        stored = b.tensor(f"{at}.weight", around_128)
        zeros = b.scalar(np.uint8(0)), b.scalar(np.uint8(128))
        acc = b.op("MatMulInteger", columns, stored, *zeros, name=f"{at}/products")
    if group > 1:
        acc = b.op("Transpose", acc, name=f"{at}/groups_last", perm=[0, 2, 3, 1, 4])
        acc = b.op("Reshape", acc, b.ints(0, 0, 0, -1), name=f"{at}/ungrouped")
    return acc
