"""What a quantised layer computes, in numpy: codes, integer sums, epilogue. The definition.

Every step is either integer arithmetic or a single IEEE float32 operation, so any backend can
reproduce it bit for bit. :mod:`.planes` defines the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .planes import (
    ContractError,
    Float32,
    Int8,
    Int32,
    PackedMatrix,
    Uint8,
    check,
    unpack,
)

MAX_EXTENT = 4096
"""Largest kernel side, stride, dilation and pad."""


@dataclass(frozen=True)
class ConvGeometry:
    """A 2-D convolution's geometry with ONNX's meanings.

    ``kernel_shape`` (kh, kw), ``strides``, ``pads`` (top, left, bottom, right), ``dilations``,
    ``group``.
    """

    kernel_shape: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Spatial size of the output for an input of ``height`` x ``width``."""
        top, left, bottom, right = self.pads
        sizes = []
        for size, kernel, stride, dilation in zip(
            (height + top + bottom, width + left + right),
            self.kernel_shape,
            self.strides,
            self.dilations,
            strict=True,
        ):
            sizes.append((size - dilation * (kernel - 1) - 1) // stride + 1)
        return sizes[0], sizes[1]


@dataclass(frozen=True)
class PackedLayer:
    """Everything that defines one quantised layer.

    Attributes:
        weight: the packed matrix ``[O, K]``.
        bias: float32 ``[O]``, original order; zeros where the layer has none.
        act_scale: float32 ``[T]``, positive, one per sampler step.
        act_zero_point: int32 ``[T]``, 0 .. 2**act_bits - 1.
        act_bits: 2..8.
        input_factor: float32 ``[I]``, r, positive.
        input_shift: int8 ``[I]``, e, ``act_bits + max e <= 8``.
        conv: the geometry of a convolution; None for a linear layer.
    """

    weight: PackedMatrix
    bias: Float32
    act_scale: Float32
    act_zero_point: Int32
    act_bits: int
    input_factor: Float32
    input_shift: Int8
    conv: ConvGeometry | None = field(default=None)

    @property
    def input_channels(self) -> int:
        """I: K for a linear layer, K / (kh * kw) * group for a convolution."""
        return input_channels(self.weight.columns, self.conv)


def input_channels(columns: int, conv: ConvGeometry | None) -> int:
    """I from K and the geometry."""
    if conv is None:
        return columns
    taps = conv.kernel_shape[0] * conv.kernel_shape[1]
    if columns % taps:
        raise ContractError(f"{columns} columns do not divide into {taps} kernel taps")
    return columns // taps * conv.group


def column_factors(per_channel: NDArray[Any], conv: ConvGeometry | None, rows: int) -> NDArray[Any]:
    """Values per input channel ``[I]`` spread over the weight's columns, ``[1, K]``; ``[O, K]`` for
    a grouped convolution, whose rows read different channels."""
    if conv is None:
        return per_channel[None]
    taps = conv.kernel_shape[0] * conv.kernel_shape[1]
    by_group = np.tile(per_channel.reshape(conv.group, -1), (1, taps))
    return by_group if conv.group == 1 else np.repeat(by_group, rows // conv.group, axis=0)


def check_layer(layer: PackedLayer) -> None:
    """Raise :class:`ContractError` unless the layer keeps the whole contract."""
    check(layer.weight)
    if layer.conv is not None:
        _check_geometry(layer.conv)
    rows, steps = layer.weight.rows, layer.act_scale.size
    channels = layer.input_channels
    if layer.conv is not None and layer.conv.group > 1:
        if rows % layer.conv.group:
            raise ContractError(f"{rows} rows do not divide into {layer.conv.group} groups")
        if len(set(layer.weight.plane_rows.tolist())) > 1:
            raise ContractError("rows of a grouped convolution must have equal plane counts")
    if not 2 <= layer.act_bits <= 8:
        raise ContractError(f"{layer.act_bits} activation bits; 2 to 8 are allowed")
    for name, array, dtype, size in (
        ("bias", layer.bias, np.float32, rows),
        ("act_scale", layer.act_scale, np.float32, steps),
        ("act_zero_point", layer.act_zero_point, np.int32, steps),
        ("input_factor", layer.input_factor, np.float32, channels),
        ("input_shift", layer.input_shift, np.int8, channels),
    ):
        if array.dtype != dtype or array.shape != (size,):
            raise ContractError(
                f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} [{size}]"
            )
    if steps < 1:
        raise ContractError("the activation table is empty")
    tiny = np.finfo(np.float32).tiny
    for name, values in (("act_scale", layer.act_scale), ("input_factor", layer.input_factor)):
        if not np.all(np.isfinite(values) & (values >= tiny)):
            raise ContractError(f"{name} has a value that is not a normal positive float32")
    if not np.all(np.isfinite(layer.bias)):
        raise ContractError("bias has a value that is not finite")
    if np.any((layer.act_zero_point < 0) | (layer.act_zero_point >= 2**layer.act_bits)):
        raise ContractError("a zero point is outside the activation codes")
    if np.any((layer.input_shift < 0) | (layer.input_shift.astype(int) + layer.act_bits > 8)):
        raise ContractError("an input shift is negative, or act_bits + shift exceeds 8")


def _check_geometry(conv: ConvGeometry) -> None:
    pairs = (conv.kernel_shape, conv.strides, conv.dilations)
    if any(len(pair) != 2 for pair in pairs) or len(conv.pads) != 4:
        raise ContractError(f"a geometry has three pairs and four pads: {conv}")
    if not all(1 <= value <= MAX_EXTENT for pair in pairs for value in pair) or conv.group < 1:
        raise ContractError(f"kernel, strides and dilations are 1 to {MAX_EXTENT}: {conv}")
    if not all(0 <= value <= MAX_EXTENT for value in conv.pads):
        raise ContractError(f"pads are 0 to {MAX_EXTENT}: {conv}")


def activation_codes(
    x: NDArray[np.floating],
    scale: np.float32,
    zero_point: int,
    bits: int,
    factor: Float32 | None = None,
) -> Uint8:
    """``clamp(rne((x * r) / s) + z, 0, 2**bits - 1)``, uint8, shape of ``x``.

    Product and division are two float32 operations, z is added and the clamp done in float32.
    NaN gives 0, infinities saturate. ``factor`` must broadcast against ``x``.
    """
    value = x.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if factor is not None:
            value = value * factor
        value = np.rint(value / np.float32(scale)) + np.float32(zero_point)
    value = np.where(np.isnan(value), np.float32(0), value)
    return np.clip(value, np.float32(0), np.float32(2**bits - 1)).astype(np.uint8)


def centred(codes: Uint8, zero_point: int, shift: Int8 | None = None) -> Int32:
    """``x_int = (code - z) * 2**e``, int32. ``shift`` must broadcast against ``codes``."""
    value = codes.astype(np.int32) - np.int32(zero_point)
    return value if shift is None else value * (np.int32(1) << shift.astype(np.int32))


def accumulate_linear(x_int: Int32, w_int: Int8) -> Int32:
    """``sum_k x_int[..., k] * w_int[o, k]``, int32 ``[..., O]``.

    Summed by a float64 product, which is exact: every partial sum is an integer below 2**53.
    """
    return (x_int.astype(np.float64) @ w_int.astype(np.float64).T).astype(np.int32)


def accumulate_conv(x_int: Int32, w_int: Int8, conv: ConvGeometry) -> Int32:
    """Integer convolution, NCHW int32 ``[N, I, H, W]`` to ``[N, O, H', W']``; padding is 0."""
    batch, channels, height, width = x_int.shape
    top, left, bottom, right = conv.pads
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_shape, conv.strides, conv.dilations
    padded = np.pad(x_int, ((0, 0), (0, 0), (top, bottom), (left, right)))
    out_h, out_w = conv.output_size(height, width)
    window = np.lib.stride_tricks.sliding_window_view(
        padded, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(2, 3)
    )[:, :, ::sh, ::sw, ::dh, ::dw]
    per_group = channels // conv.group
    patches = window.reshape(batch, conv.group, per_group, out_h, out_w, kh, kw)
    patches = patches.transpose(0, 1, 3, 4, 5, 6, 2).reshape(
        batch, conv.group, out_h * out_w, kh * kw * per_group
    )
    weights = w_int.reshape(conv.group, -1, kh * kw * per_group).transpose(0, 2, 1)
    sums = patches.astype(np.float64) @ weights.astype(np.float64)
    rows = w_int.shape[0]
    return sums.transpose(0, 1, 3, 2).reshape(batch, rows, out_h, out_w).astype(np.int32)


def epilogue(acc: Int32, act_scale: np.float32, weight_scale: Float32, bias: Float32) -> Float32:
    """``fl(fl(float32(acc) * fl(s * S)) + bias)``, each operation rounded on its own.

    ``weight_scale`` and ``bias`` must broadcast against ``acc``.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        combined = np.float32(act_scale) * weight_scale
        return (acc.astype(np.float32) * combined) + bias


@dataclass(frozen=True)
class LayerTrace:
    """What a layer does with an input: codes uint8, accumulators int32, output float32."""

    codes: Uint8
    accumulator: Int32
    output: Float32


def run_layer(layer: PackedLayer, x: NDArray[np.floating], step_index: int) -> LayerTrace:
    """Run one layer.

    Args:
        layer: a layer that passes :func:`check_layer`.
        x: float32 or float16; ``[..., K]`` for a linear layer, NCHW for a convolution.
        step_index: row of the activation table.
    """
    scale, zero_point = layer.act_scale[step_index], int(layer.act_zero_point[step_index])
    matrix = unpack(layer.weight)
    per_channel = (slice(None),) if layer.conv is None else (slice(None), None, None)
    codes = activation_codes(x, scale, zero_point, layer.act_bits, layer.input_factor[per_channel])
    x_int = centred(codes, zero_point, layer.input_shift[per_channel])
    if layer.conv is None:
        acc = accumulate_linear(x_int, matrix.integers())
    else:
        acc = accumulate_conv(x_int, matrix.integers(), layer.conv)
    output = epilogue(acc, scale, matrix.scale[per_channel], layer.bias[per_channel])
    return LayerTrace(codes, acc, output)


def add_residual(
    y: NDArray[np.floating], residual: NDArray[np.floating] | None
) -> NDArray[np.floating]:
    """``y``, as its type holds it, with a residual of that type added: ``fl(y + residual)``.

    Args:
        y: a layer's output, float32, or float16 rounded from float32.
        residual: of its shape, for a convolution also ``[N or 1, O, 1, 1]``; None: nothing.
    """
    if residual is None:
        return y
    with np.errstate(over="ignore", invalid="ignore"):
        return (y.astype(np.float32) + residual.astype(np.float32)).astype(y.dtype)
