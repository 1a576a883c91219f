"""The layers of the golden set: every way in which a layer can differ, each as small as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpq_export.core.integer_reference import (
    ConvGeometry,
    PackedLayer,
    activation_codes,
    check_layer,
)
from mpq_export.core.planes import PlaneMatrix, pack

from .draws import Draws

TINY = float(np.finfo(np.float32).tiny)
_TABLE_STEPS = 3


@dataclass(frozen=True)
class LayerInput:
    """A layer and what it is to be run on."""

    name: str
    layer: PackedLayer
    x: NDArray[np.floating]
    step_index: int


def layer_inputs() -> Iterator[LayerInput]:
    """Every layer case, each seeded by its name so that one can change without the others."""
    for name, build in (_LINEAR | _CONV).items():
        layer, x, step_index = build(Draws.named(name))
        check_layer(layer)
        yield LayerInput(name, layer, x, step_index)


def random_matrix(draws: Draws, plane_counts: Sequence[int], columns: int) -> PlaneMatrix:
    """Rows with any steps and codes that the contract allows."""
    rows, planes = len(plane_counts), max(plane_counts)
    steps = np.zeros((rows, planes), np.int64)
    offset = np.zeros(rows, np.int64)
    codes = np.zeros((rows, columns), np.int64)
    for row, count in enumerate(plane_counts):
        drawn = draws.integers(0, 127, count)
        while drawn.sum() > 254:
            drawn = drawn // 2
        steps[row, :count] = drawn
        offset[row] = draws.integers(-127, 127 - int(drawn.sum()))
        codes[row] = draws.integers(0, 2**count - 1, columns)
    return PlaneMatrix(
        offset.astype(np.int8),
        steps.astype(np.int8),
        codes.astype(np.uint8),
        np.array(plane_counts, np.int64),
        ((0.5 + draws.unit(rows)) / 64).astype(np.float32),
    )


def random_layer(
    draws: Draws,
    plane_counts: Sequence[int],
    act_bits: int,
    channels: int,
    conv: ConvGeometry | None = None,
    *,
    top_shift: int = 0,
    factors: bool = False,
) -> PackedLayer:
    """A layer whose activation steps suit inputs of variance 1."""
    taps = 1 if conv is None else conv.kernel_shape[0] * conv.kernel_shape[1]
    group = 1 if conv is None else conv.group
    matrix = random_matrix(draws, plane_counts, channels // group * taps)
    shift = draws.integers(0, top_shift, channels)
    if top_shift:
        shift[draws.integers(0, channels - 1)] = top_shift
    factor = 0.5 + draws.unit(channels) if factors else np.ones(channels)
    return PackedLayer(
        weight=pack(matrix),
        bias=draws.bell(len(plane_counts)).astype(np.float32),
        act_scale=((3 + draws.unit(_TABLE_STEPS)) / 2**act_bits).astype(np.float32),
        act_zero_point=draws.integers(0, 2**act_bits - 1, _TABLE_STEPS).astype(np.int32),
        act_bits=act_bits,
        input_factor=np.ldexp(factor, -shift).astype(np.float32),
        input_shift=shift.astype(np.int8),
        conv=conv,
    )


def _linear(
    plane_counts: Sequence[int],
    act_bits: int,
    columns: int,
    batch: tuple[int, ...] = (3,),
    dtype: type = np.float32,
    **options: Any,
):
    def build(draws: Draws):
        layer = random_layer(draws, plane_counts, act_bits, columns, **options)
        x = draws.bell((*batch, columns)).astype(dtype)
        return layer, x, int(draws.integers(0, _TABLE_STEPS - 1))

    return build


def _conv(
    plane_counts: Sequence[int],
    act_bits: int,
    channels: int,
    size: tuple[int, int],
    conv: ConvGeometry,
    batch: int = 1,
    dtype: type = np.float32,
    **options: Any,
):
    def build(draws: Draws):
        layer = random_layer(draws, plane_counts, act_bits, channels, conv, **options)
        x = draws.bell((batch, channels, *size)).astype(dtype)
        return layer, x, int(draws.integers(0, _TABLE_STEPS - 1))

    return build


def _with_table(layer: PackedLayer, scale: float, zero_point: int) -> PackedLayer:
    """The layer with one activation step."""
    return replace(
        layer,
        act_scale=np.array([scale], np.float32),
        act_zero_point=np.array([zero_point], np.int32),
    )


_EXTREMES = np.array(
    [
        np.nan, -np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, -1e30, 2.0**31, -(2.0**31),
        2.0**24 + 2, 300.0, -300.0, TINY, -TINY, TINY / 2, -TINY / 2, 1.5e-45, -1.5e-45, 0.0, -0.0,
        0.25, -0.25, 1.0,
    ],
    np.float32,
)  # fmt: skip


def _extreme_inputs(draws: Draws):
    """NaN, infinities, numbers beyond int32, denormals; one extreme at a time and all together."""
    columns = len(_EXTREMES)
    layer = _with_table(random_layer(draws, [4, 3, 2], 4, columns), 0.5, 5)
    x = np.full((4, columns), 0.25, np.float32)
    x[0], x[1] = _EXTREMES, _EXTREMES[::-1]
    x[2, 3], x[3, 3] = np.nan, np.inf
    return layer, x, 0


def _extreme_products(draws: Draws):
    """Inputs that overflow, or become denormal, when their factor is applied."""
    columns = 16
    layer = _with_table(random_layer(draws, [3, 3], 6, columns), TINY, 20)
    factor = np.where(np.arange(columns) % 2 == 0, 0.125, 1e6).astype(np.float32)
    layer = replace(layer, input_factor=factor)
    x = np.where(np.arange(columns) % 2 == 0, TINY, 1e35) * (1 + 20 * draws.bell((3, columns)))
    return layer, x.astype(np.float32), 0


def _denormal_inputs(draws: Draws):
    """The smallest activation step: flushing denormals would change codes."""
    columns = 40
    layer = _with_table(random_layer(draws, [2, 2, 2], 4, columns), TINY, 7)
    x = draws.bell((3, columns)) * TINY
    return layer, x.astype(np.float32), 0


def _huge_step(draws: Draws):
    layer = _with_table(random_layer(draws, [3, 2], 5, 20), 3e37, 11)
    layer = replace(layer, weight=replace(layer.weight, scale=np.array([3e-38, 5e-38], np.float32)))
    return layer, (draws.bell((2, 20)) * 1e38).astype(np.float32), 0


def _denormal_outputs(draws: Draws):
    """Combined scales and outputs that are denormal."""
    layer = _with_table(random_layer(draws, [3, 3, 2], 4, 20), 1e-20, 3)
    scale = np.array([3.1e-20, 7.7e-22, 2.3e-24], np.float32)
    layer = replace(layer, weight=replace(layer.weight, scale=scale), bias=np.zeros(3, np.float32))
    return layer, (draws.bell((3, 20)) * 1e-19).astype(np.float32), 0


def _overflowing_outputs(draws: Draws):
    layer = _with_table(random_layer(draws, [3, 3], 4, 20), 1e18, 3)
    layer = replace(layer, weight=replace(layer.weight, scale=np.array([2e17, 3e17], np.float32)))
    return layer, (draws.bell((3, 20)) * 1e19).astype(np.float32), 0


def _ties(step: float, zero_point: int):
    """Quotients half way between two codes, and their neighbours on either side."""

    def build(draws: Draws):
        halves = (np.arange(-12, 12) + 0.5) * np.float64(np.float32(step))
        x = halves.astype(np.float32)
        x = np.stack([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
        return _with_table(random_layer(draws, [4, 3], 4, 24), step, zero_point), x, 0

    return build


def _reciprocal(draws: Draws):
    """Inputs to which multiplication by 1 / s gives another code than division by s."""
    columns, zero_point = 16, 128
    while True:
        step = np.float32(0.01 + 0.02 * draws.unit())
        halves = ((np.arange(-120, 120) + 0.5) * np.float64(step)).astype(np.float32)
        inverse = np.float32(1) / step
        wrong = np.clip(np.rint(halves * inverse) + np.float32(zero_point), 0, 255)
        x = halves[activation_codes(halves, step, zero_point, 8) != wrong]
        if len(x) >= columns:
            break
    layer = _with_table(random_layer(draws, [4, 4], 8, columns), float(step), zero_point)
    return layer, x[:columns][None], 0


def _factor_order(draws: Draws):
    """Inputs to which (x / s) * r gives another code than (x * r) / s."""
    columns, zero_point = 24, 30
    layer = random_layer(draws, [3, 4], 6, columns, factors=True)
    factor, step = layer.input_factor, layer.act_scale[0]
    halves = (draws.integers(-30, 30, (4000, columns)) + 0.5) * np.float64(step)
    x = (halves / factor).astype(np.float32)
    codes = activation_codes(x, step, zero_point, 6, factor)
    wrong = np.clip(np.rint(x / step * factor) + np.float32(zero_point), 0, 63)
    differs = (codes != wrong).sum(axis=1)
    x = x[np.argsort(-differs, kind="stable")[:2]]
    return _with_table(layer, float(step), zero_point), x, 0


def _largest(act_bits: int, zero_point: int, x_value: float, shift: int = 0, columns: int = 641):
    """The largest activations against the largest weights, nearly all of one sign.

    Row 0 is as large as a row can be; its sum is odd and beyond 2**24, where float32 sums and
    saturating int16 pairs go wrong. The other rows are near it, and one is its opposite.
    """

    def build(draws: Draws):
        matrix = random_matrix(draws, [1] * 4, columns)
        matrix = replace(
            matrix,
            offset=np.array([127, 120, -127, 0], np.int8),
            steps=np.array([[0], [7], [3], [127]], np.int8),
            codes=(draws.integers(0, 15, (4, columns)) > 0).astype(np.uint8),
        )
        matrix = replace(matrix, codes=np.where([[True], [True], [False], [True]], matrix.codes, 0))
        layer = random_layer(draws, [1] * 4, act_bits, columns)
        layer = replace(
            layer, weight=pack(matrix), input_shift=np.full(columns, shift, np.int8),
            bias=np.zeros(4, np.float32),
        )  # fmt: skip
        x = np.full((2, columns), x_value, np.float32)
        x[1] -= np.sign(x_value) * (draws.integers(0, 7, columns) == 0)
        return _with_table(layer, 1.0, zero_point), x, 0

    return build


def _largest_conv(draws: Draws):
    """As :func:`_largest`, through a convolution: K = 576."""
    conv = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
    layer = random_layer(draws, [2, 2, 2], 8, 64, conv)
    matrix = random_matrix(draws, [2, 2, 2], 576)
    matrix = replace(
        matrix,
        offset=np.array([124, -127, 0], np.int8),
        steps=np.array([[1, 2], [0, 5], [127, 0]], np.int8),
        codes=np.where([[False], [True], [False]], 0, matrix.codes | 3).astype(np.uint8),
    )
    layer = _with_table(replace(layer, weight=pack(matrix)), 1.0, 0)
    x = 255 - (draws.integers(0, 7, (1, 64, 3, 2)) == 0)
    return layer, x.astype(np.float32), 0


def _degenerate_rows(draws: Draws):
    """Rows of one level: all zero, constant, steps of zero, and a row whose bits are all set."""
    matrix = PlaneMatrix(
        offset=np.array([0, 1, -1, -127, 127], np.int8),
        steps=np.array([[0, 0], [0, 0], [0, 0], [127, 127], [0, 0]], np.int8),
        codes=np.array([[0], [0], [3], [3], [0]], np.uint8).repeat(35, axis=1),
        plane_count=np.full(5, 2, np.int64),
        scale=np.array([1, 0.37, 2.0**-126, 0.01, 3.0], np.float32),
    )
    layer = replace(random_layer(draws, [2] * 5, 3, 35), weight=pack(matrix))
    return layer, draws.bell((2, 35)).astype(np.float32), 1


_LINEAR = {
    "linear_p1_a2": _linear([1, 1, 1], 2, 5),
    "linear_p2_a3": _linear([2] * 5, 3, 31),
    "linear_p3_a4": _linear([3] * 4, 4, 32),
    "linear_p4_a5": _linear([4] * 3, 5, 33),
    "linear_p5_a6": _linear([5] * 7, 6, 64),
    "linear_p6_a7": _linear([6] * 2, 7, 70),
    "linear_p7_a8": _linear([7] * 3, 8, 95),
    "linear_p8_a8": _linear([8] * 4, 8, 50),
    "linear_mixed_planes": _linear([3, 2, 4, 3, 3, 4, 2, 2, 3, 4, 3], 4, 45),
    "linear_mixed_1_to_8": _linear([1, 8, 2, 7, 3, 6, 4, 5], 6, 37),
    "linear_one_row": _linear([3], 4, 40),
    "linear_one_column": _linear([2, 3, 1], 5, 1),
    "linear_one_by_one": _linear([1], 2, 1, (1,)),
    "linear_3d": _linear([3, 2, 2, 3], 4, 34, (2, 3)),
    "linear_4d": _linear([2, 2], 4, 9, (2, 1, 3)),
    "linear_vector": _linear([2, 1], 4, 33, ()),
    "linear_many_rows": _linear([2, 3, 1] * 22, 4, 20, (2,)),
    "linear_float16": _linear([3, 4], 6, 40, dtype=np.float16),
    "linear_factors": _linear([3, 2], 4, 40, factors=True),
    "linear_shifts_a2": _linear([3, 2, 3], 2, 35, top_shift=6),
    "linear_shifts_a5": _linear([4, 4, 4], 5, 35, top_shift=3),
    "linear_shifts_a7": _linear([2, 3, 2], 7, 35, top_shift=1),
    "linear_factors_shifts": _linear([4, 2, 3], 4, 66, top_shift=4, factors=True),
    "linear_degenerate_rows": _degenerate_rows,
    "linear_extreme_inputs": _extreme_inputs,
    "linear_extreme_products": _extreme_products,
    "linear_denormal_inputs": _denormal_inputs,
    "linear_denormal_outputs": _denormal_outputs,
    "linear_overflowing_outputs": _overflowing_outputs,
    "linear_huge_step": _huge_step,
    "linear_ties_half": _ties(0.5, 7),
    "linear_ties_tenth": _ties(0.1, 0),
    "linear_ties_third": _ties(1 / 3, 15),
    "linear_reciprocal": _reciprocal,
    "linear_factor_order": _factor_order,
    "linear_largest": _largest(8, 0, 255.0),
    "linear_largest_negative": _largest(8, 255, -255.0),
    "linear_largest_shifted": _largest(2, 0, 3.0, shift=6, columns=700),
}

_SAME = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
_CONV = {
    "conv_3x3": _conv([3] * 4, 4, 5, (5, 6), _SAME),
    "conv_1x1": _conv([2, 2, 2], 4, 33, (3, 2), ConvGeometry((1, 1))),
    "conv_1x1_stride": _conv([2, 3], 4, 7, (5, 4), ConvGeometry((1, 1), strides=(2, 3))),
    "conv_no_padding": _conv([4, 4], 5, 3, (5, 4), ConvGeometry((3, 3))),
    "conv_mixed_planes": _conv([3, 2, 4, 3, 2, 4, 3], 4, 4, (4, 4), _SAME),
    "conv_mixed_1_to_8": _conv([1, 8, 2, 7, 3, 6, 4, 5], 8, 2, (3, 4), _SAME),
    "conv_p1_a2": _conv([1, 1], 2, 3, (4, 3), _SAME),
    "conv_p8_a8": _conv([8, 8, 8], 8, 3, (4, 5), _SAME),
    "conv_stride": _conv(
        [3, 3], 4, 4, (7, 6), ConvGeometry((3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    ),
    "conv_stride_uneven": _conv(
        [3, 2], 4, 3, (8, 7), ConvGeometry((2, 3), strides=(3, 2), pads=(0, 1, 1, 1))
    ),
    "conv_dilation": _conv(
        [3, 3], 4, 3, (6, 7), ConvGeometry((3, 3), pads=(2, 2, 2, 2), dilations=(2, 2))
    ),
    "conv_dilation_stride": _conv(
        [2, 3], 6, 3, (9, 8),
        ConvGeometry((3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(2, 3)),
    ),
    "conv_asymmetric_pads": _conv([3, 2, 3], 4, 3, (4, 4), ConvGeometry((3, 3), pads=(0, 2, 1, 0))),
    "conv_pads_wider_than_image": _conv(
        [2, 2], 3, 2, (1, 2), ConvGeometry((5, 4), pads=(3, 4, 4, 3))
    ),
    "conv_one_row": _conv([3], 4, 3, (4, 4), _SAME),
    "conv_one_column": _conv([2, 3], 4, 1, (3, 3), ConvGeometry((1, 1), pads=(1, 0, 0, 1))),
    "conv_batch": _conv([3, 2], 4, 3, (3, 4), _SAME, batch=3),
    "conv_float16": _conv([3, 4], 6, 4, (4, 4), _SAME, dtype=np.float16),
    "conv_groups": _conv([3] * 4, 4, 6, (4, 5), replace(_SAME, group=2)),
    "conv_depthwise": _conv([4] * 5, 8, 5, (4, 4), replace(_SAME, group=5)),
    "conv_depthwise_multiplied": _conv(
        [2] * 6, 4, 3, (5, 4), ConvGeometry((3, 3), strides=(2, 1), pads=(1, 1, 0, 0), group=3)
    ),
    "conv_groups_1x1": _conv([3] * 4, 5, 8, (2, 3), ConvGeometry((1, 1), group=4)),
    "conv_factors": _conv([3, 2], 4, 5, (4, 3), _SAME, factors=True),
    "conv_shifts_a2": _conv([3, 3], 2, 6, (4, 3), _SAME, top_shift=6),
    "conv_shifts_a7": _conv([3, 2], 7, 6, (3, 4), _SAME, top_shift=1),
    "conv_factors_shifts": _conv([2, 4, 3], 4, 5, (4, 3), _SAME, top_shift=4, factors=True),
    "conv_groups_factors_shifts": _conv(
        [3] * 6, 4, 6, (4, 4), ConvGeometry((3, 2), pads=(1, 0, 1, 1), dilations=(1, 2), group=3),
        top_shift=4, factors=True,
    ),
    "conv_largest": _largest_conv,
}  # fmt: skip
