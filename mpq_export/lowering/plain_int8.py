"""The ``trt-int8`` target: our integers between symmetric INT8 operators, without a plugin.

What a user of TensorRT would have without our kernels: weights of one byte each, activations that
``QuantizeLinear`` and ``DequantizeLinear`` bring to int8 and back, a convolution or product between
them that TensorRT runs on int8. TensorRT knows neither zero points nor scales that are computed, so
codes are made before, in floating point, and both scales are 1; ours, which change with the step,
are factors after the product::

    v = clip(round(x * r / s_t) + z_t, 0, 2^a - 1), less z_t, times 2^e
    y = conv(DQ(Q(v)), DQ(w_int)) * (s_t * S) + bias

Where ``(2^a - 1) << e`` exceeds 127 it is the offset form ``v = (code << e) - 128``, with a
correction per row after the product and padding before it.

Runtimes that sum in float32, as ONNX Runtime does, give the contract's outputs exactly while a
row's sum of ``|w|`` times 128 stays below 2^24 (``exact_in_float32``); TensorRT sums in int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..core.integer_reference import PackedLayer, column_factors
from ..core.planes import unpack
from .nodes import read_layer

_MOST_SIGNED = 127
_OFFSET = 128


def exact_in_float32(layer: PackedLayer) -> bool:
    """Whether no partial sum of a layer can leave the integers that float32 holds."""
    rows = np.abs(unpack(layer.weight).integers().astype(np.int64)).sum(axis=1)
    # The offset form adds a correction as large as its sums.
    largest = 2 * _OFFSET if _is_wide(layer) else _OFFSET
    return bool(largest * rows.max() < 2**24)


def plain_int8_nodes(
    node: onnx.NodeProto, tensors: Mapping[str, np.ndarray], half: bool
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes in the place of a packed one, and their initializers.

    Args:
        node: ``MPQLinear`` or ``MPQConv`` of domain ``mpq``.
        tensors: the graph's initializers.
        half: whether the graph is float16: this X may be, or float32, and Y is of its type.

    Raises ContractError as ``read_layer`` does.
    """
    writer = _Writer(node.name, read_layer(node, tensors))
    writer.write(node.input[0], node.input[1], node.output[0], half)
    return writer.nodes, writer.initializers


def plain_int8_tensors(name: str, layer: PackedLayer) -> dict[str, np.ndarray]:
    """The initializers of a layer's nodes, by name."""
    writer = _Writer(name, layer)
    writer.write("", "", "", half=False)
    return writer.initializers


def _is_wide(layer: PackedLayer) -> bool:
    """Whether activations need the offset form."""
    return bool((2**layer.act_bits - 1) << int(layer.input_shift.max(initial=0)) > _MOST_SIGNED)


class _Writer:
    """Writes one layer; everything is named after it."""

    def __init__(self, at: str, layer: PackedLayer) -> None:
        self.at, self.layer, self.conv = at, layer, layer.conv
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.wide = _is_wide(layer)

    def write(self, x: str, step_index: str, y: str, half: bool) -> None:
        """All of it, from x to y."""
        matrix = unpack(self.layer.weight)
        integers = matrix.integers()
        step = self.op("Squeeze", step_index, to="step")
        scale = self.op("Gather", self.tensor("act_scale", self.layer.act_scale), step, to="scale")
        zero_points = self.layer.act_zero_point.astype(np.float32)
        zero_point = self.op(
            "Gather", self.tensor("act_zero_point", zero_points), step, to="zero_point"
        )
        given = x
        if half:
            x = self.op("Cast", x, to="float", to_type=TensorProto.FLOAT)
        values = self._values(x, scale, zero_point)
        sums = self._sums(self._through_int8(values), integers)
        if self.wide:
            sums = self._corrected(sums, integers, zero_point)
        combined = self.op(
            "Mul", scale, self.tensor("weight_scale", self._by_row(matrix.scale)), to="factor"
        )
        product = self.op("Mul", sums, combined, to="product")
        bias = self.tensor("bias", self._by_row(self.layer.bias))
        if half:
            product = self.op("Add", product, bias, to="sum")
            self._last("CastLike", [product, given], y)
        else:
            self._last("Add", [product, bias], y)

    def _values(self, x: str, scale: str, zero_point: str) -> str:
        """What the products sum, as whole numbers in float32."""
        layer = self.layer
        if self.wide and self.conv is not None and any(self.conv.pads):
            top, left, bottom, right = self.conv.pads
            pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            # Zero has the code z in either form; after quantising it would need another constant.
            x = self.op("Pad", x, self.tensor("pads", pads), to="padded")
        if np.any(layer.input_factor != 1):
            factor = self.tensor("input_factor", self._by_channel(layer.input_factor))
            x = self.op("Mul", x, factor, to="scaled")
        x = self.op("Round", self.op("Div", x, scale, to="divided"), to="rounded")
        x = self.op("Add", x, zero_point, to="raised")
        top_code = np.float32(2**layer.act_bits - 1)
        bounds = self.tensor("lowest", np.float32(0)), self.tensor("top", top_code)
        x = self.op("Clip", x, *bounds, to="codes")
        if not self.wide:
            x = self.op("Sub", x, zero_point, to="centred")
        if np.any(layer.input_shift):
            shifts = (2.0**layer.input_shift).astype(np.float32)
            x = self.op("Mul", x, self.tensor("shifts", self._by_channel(shifts)), to="shifted")
        if self.wide:
            x = self.op("Sub", x, self.tensor("offset", np.float32(_OFFSET)), to="lowered")
        return x

    def _through_int8(self, x: str) -> str:
        one = self.tensor("one", np.float32(1))
        zero = self.tensor("zero", np.int8(0))
        x = self.op("QuantizeLinear", x, one, zero, to="quantized")
        return self.op("DequantizeLinear", x, one, zero, to="dequantized")

    def _sums(self, x: str, integers: np.ndarray) -> str:
        conv = self.conv
        one, zero = f"{self.at}.one", f"{self.at}.zero"
        if conv is None:
            stored = self.tensor("weight", integers.T)
            return self.op(
                "MatMul", x, self.op("DequantizeLinear", stored, one, zero, to="w"), to="sums"
            )
        rows, (kh, kw) = len(integers), conv.kernel_shape
        stored = self.tensor("weight", integers.reshape(rows, kh, kw, -1).transpose(0, 3, 1, 2))
        return self.op(
            "Conv",
            x,
            self.op("DequantizeLinear", stored, one, zero, to="w"),
            to="sums",
            kernel_shape=list(conv.kernel_shape),
            strides=list(conv.strides),
            pads=[0] * 4 if self.wide else list(conv.pads),
            dilations=list(conv.dilations),
            group=conv.group,
        )

    def _corrected(self, sums: str, integers: np.ndarray, zero_point: str) -> str:
        """``sums + 128 * sum w - z * sum (w << e)``."""
        wide = integers.astype(np.int64)
        shift = column_factors(self.layer.input_shift.astype(np.int64), self.conv, len(integers))
        row_sums = self.tensor("offset_sums", self._by_row(_OFFSET * wide.sum(axis=1)))
        shifted = self.tensor("shifted_sums", self._by_row((wide << shift).sum(axis=1)))
        less = self.op("Mul", shifted, zero_point, to="zero_sums")
        correction = self.op("Sub", row_sums, less, to="correction")
        return self.op("Add", sums, correction, to="corrected")

    def _by_row(self, values: np.ndarray) -> np.ndarray:
        """Float32, one number per output channel, as it lies in y."""
        own = values.astype(np.float32)
        return own if self.conv is None else own.reshape(-1, 1, 1)

    def _by_channel(self, values: np.ndarray) -> np.ndarray:
        return values if self.conv is None else values.reshape(-1, 1, 1)

    def op(self, op_type: str, *inputs: str, to: str, **attributes: Any) -> str:
        """A node within the layer; the name of its output."""
        if "to_type" in attributes:
            attributes["to"] = attributes.pop("to_type")
        name = f"{self.at}/{to}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _last(self, op_type: str, inputs: list[str], y: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op_type, inputs, [y], name=self.at, **attributes))

    def tensor(self, name: str, value: Any) -> str:
        """An initializer of the layer."""
        self.initializers[f"{self.at}.{name}"] = np.ascontiguousarray(value).reshape(
            np.shape(value)
        )
        return f"{self.at}.{name}"
