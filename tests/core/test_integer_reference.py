"""What a layer computes, against implementations that share nothing with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_cases
from hypothesis import assume, given
from hypothesis import strategies as st

from mpq_export.core.integer_reference import (
    ConvGeometry,
    PackedLayer,
    accumulate_conv,
    accumulate_linear,
    activation_codes,
    centred,
    check_layer,
    column_factors,
    epilogue,
    run_layer,
)
from mpq_export.core.planes import MAX_COLUMNS, unpack

from .strategies import (
    TINY,
    any_floats32,
    floats32,
    geometries,
    inputs_for,
    layers,
    normal_scales,
    seeds,
)

RESULTS = ("codes", "accumulator", "output")


def same_trace(a: Any, b: Any) -> None:
    """Assert that two traces agree in value and type."""
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        assert getattr(a, name).dtype == getattr(b, name).dtype


# --- activation codes -------------------------------------------------------------------------


def to_float32(value: float) -> float:
    """A Python float rounded to float32, overflow to infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def code_plainly(x: float, scale: float, zero_point: int, bits: int, factor: float) -> int:
    """The contract in Python numbers.

    Product and quotient of two float32 are rounded correctly when computed in double and then
    rounded again (Figueroa), normal results and denormal ones of this range alike; sums are exact.
    """
    quotient = to_float32(to_float32(x * factor) / scale)
    if quotient != quotient:
        return 0
    top = 2**bits - 1
    if quotient in (float("inf"), float("-inf")):
        return top if quotient > 0 else 0
    return min(max(round(quotient) + zero_point, 0), top)


@given(st.data(), st.integers(2, 8))
def test_codes_are_the_contracts(data, bits):
    scale = data.draw(normal_scales)
    zero_point = data.draw(st.integers(0, 2**bits - 1))
    factor = data.draw(st.just(1.0) | normal_scales)
    near = st.integers(-(2**bits) - 4, 2**bits + 4).map(lambda n: to_float32(n / 2 * scale))
    values = data.draw(st.lists(any_floats32 | near, min_size=1, max_size=20))
    x = np.array(values, np.float32)
    codes = activation_codes(x, np.float32(scale), zero_point, bits, np.float32(factor))
    expected = [code_plainly(float(v), scale, zero_point, bits, factor) for v in x]
    assert codes.tolist() == expected
    assert codes.dtype == np.uint8


@pytest.mark.parametrize(
    ("x", "code"),
    [
        (np.nan, 0), (-np.nan, 0), (np.inf, 15), (-np.inf, 0), (3.4e38, 15), (-3.4e38, 0),
        (0.0, 5), (-0.0, 5), (1e-45, 5), (0.5, 5), (1.5, 7), (2.5, 7), (-0.5, 5), (-1.5, 3),
        (9.5, 15), (10.5, 15), (-5.5, 0), (2.0**31, 15), (-(2.0**31), 0), (2.0**63, 15),
    ],
)  # fmt: skip
def test_code_of(x, code):
    assert activation_codes(np.float32([x]), np.float32(1), 5, 4).tolist() == [code]


def test_denormals_are_not_flushed():
    x = np.float32([0.75 * TINY, -0.75 * TINY, TINY / 4])
    assert activation_codes(x, np.float32(TINY), 3, 3).tolist() == [4, 2, 3]
    product = activation_codes(np.float32([3 * TINY]), np.float32(TINY), 0, 3, np.float32(0.25))
    assert product.tolist() == [1]


def test_float16_is_widened_first():
    x = np.linspace(-3, 3, 101).astype(np.float16)
    arguments = np.float32(0.1), 30, 6, np.float32(0.7)
    np.testing.assert_array_equal(
        activation_codes(x, *arguments), activation_codes(x.astype(np.float32), *arguments)
    )


@given(st.integers(0, 255), st.lists(st.integers(0, 255), min_size=1), st.integers(0, 6))
def test_centred(zero_point, codes, shift):
    value = centred(np.array(codes, np.uint8), zero_point, np.array([shift], np.int8))
    assert value.dtype == np.int32
    assert value.tolist() == [(code - zero_point) * 2**shift for code in codes]
    unshifted = centred(np.array(codes, np.uint8), zero_point)
    assert unshifted.tolist() == [code - zero_point for code in codes]


# --- sums -------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 90), seeds)
def test_linear_sums(batch, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-255, 256, (batch, columns)).astype(np.int32)
    w = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    acc = accumulate_linear(x, w)
    assert acc.dtype == np.int32
    for m, o in product(range(batch), range(rows)):
        assert acc[m, o] == sum(int(a) * int(b) for a, b in zip(x[m], w[o], strict=True))


@pytest.mark.parametrize("sign", [1, -1])
def test_largest_sum_there_is(sign):
    x = np.full((1, MAX_COLUMNS), 255, np.int32)
    w = np.full((1, MAX_COLUMNS), 127 * sign, np.int8)
    assert accumulate_linear(x, w).tolist() == [[sign * 255 * 127 * MAX_COLUMNS]]


def conv_plainly(x: np.ndarray, w: np.ndarray, conv: ConvGeometry) -> np.ndarray:
    """Convolution by its definition, int64, output by output; weight columns kh, kw, channel."""
    batch, channels, height, width = x.shape
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_shape, conv.strides, conv.dilations
    top, left, bottom, right = conv.pads
    out_h = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    out_w = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    per_group, rows_per_group = channels // conv.group, len(w) // conv.group
    y = np.zeros((batch, len(w), out_h, out_w), np.int64)
    for n, o, i, j in np.ndindex(y.shape):
        first = o // rows_per_group * per_group
        for column, (a, b, c) in enumerate(product(range(kh), range(kw), range(per_group))):
            row, col = i * sh + a * dh - top, j * sw + b * dw - left
            if 0 <= row < height and 0 <= col < width:
                y[n, o, i, j] += int(x[n, first + c, row, col]) * int(w[o, column])
    return y


@given(geometries(), st.integers(1, 2), st.integers(1, 2), seeds)
def test_conv_sums(conv, per_group, rows_per_group, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    sizes = conv.output_size(int(height), int(width))
    assume(min(sizes) >= 1)
    taps = conv.kernel_shape[0] * conv.kernel_shape[1]
    x = rng.integers(-255, 256, (2, per_group * conv.group, height, width)).astype(np.int32)
    w = rng.integers(-127, 128, (rows_per_group * conv.group, taps * per_group)).astype(np.int8)
    acc = accumulate_conv(x, w, conv)
    assert acc.dtype == np.int32
    assert acc.shape[2:] == sizes
    np.testing.assert_array_equal(acc, conv_plainly(x, w, conv))


def test_conv_columns_are_kernel_row_kernel_column_channel():
    """One tap at a time reads the place it should."""
    x = np.arange(2 * 4 * 5).reshape(1, 2, 4, 5).astype(np.int32)
    conv = ConvGeometry((2, 3))
    for column, (a, b, c) in enumerate(product(range(2), range(3), range(2))):
        w = np.zeros((1, 12), np.int8)
        w[0, column] = 1
        acc = accumulate_conv(x, w, conv)
        np.testing.assert_array_equal(acc[0, 0], x[0, c, a : a + 3, b : b + 3])


# --- how int8 hardware is fed, exactly --------------------------------------------------------


def _hardware_operands(layer: PackedLayer, seed: int):
    x = inputs_for(layer, seed)
    trace = run_layer(layer, x, 0)
    w = unpack(layer.weight).integers().astype(np.int64)
    shift = column_factors(layer.input_shift.astype(np.int64), layer.conv, layer.weight.rows)
    return trace, w, (w << shift).sum(axis=1), int(layer.act_zero_point[0])


def _per_output(values: np.ndarray, layer: PackedLayer) -> np.ndarray:
    return values if layer.conv is None else values[:, None, None]


def _sums(layer: PackedLayer, values: np.ndarray, w: np.ndarray, pad: np.ndarray) -> np.ndarray:
    """int64 sums of one hardware form; ``pad`` ``[I]`` is what spatial padding holds there."""
    if layer.conv is None:
        return values @ w.T
    top, left, bottom, right = layer.conv.pads
    batch, channels, height, width = values.shape
    padded = np.empty((batch, channels, height + top + bottom, width + left + right), np.int64)
    padded[:] = pad[:, None, None]
    padded[:, :, top : top + height, left : left + width] = values
    return conv_plainly(padded, w, replace(layer.conv, pads=(0, 0, 0, 0)))


def _shift_of_x(layer: PackedLayer) -> np.ndarray:
    shift = layer.input_shift.astype(np.int64)
    return shift if layer.conv is None else shift[:, None, None]


@given(layers(), seeds)
def test_unsigned_form(layer, seed):
    """u8 x s8: ``sum u * w - z * sum (w << e)``, padding ``z << e``."""
    trace, w, shifted_sum, z = _hardware_operands(layer, seed)
    unsigned = trace.codes.astype(np.int64) << _shift_of_x(layer)
    assert unsigned.max(initial=0) <= 255
    pad = z << layer.input_shift.astype(np.int64)
    acc = _sums(layer, unsigned, w, pad) - z * _per_output(shifted_sum, layer)
    np.testing.assert_array_equal(acc, trace.accumulator)


@given(layers(), seeds)
def test_offset_form(layer, seed):
    """s8 x s8: ``sum v * w + 128 * sum w - z * sum (w << e)``, padding ``(z << e) - 128``."""
    trace, w, shifted_sum, z = _hardware_operands(layer, seed)
    offset = (trace.codes.astype(np.int64) << _shift_of_x(layer)) - 128
    assert offset.min(initial=0) >= -128
    assert offset.max(initial=0) <= 127
    pad = (z << layer.input_shift.astype(np.int64)) - 128
    correction = 128 * w.sum(axis=1) - z * shifted_sum
    acc = _sums(layer, offset, w, pad) + _per_output(correction, layer)
    np.testing.assert_array_equal(acc, trace.accumulator)


@given(layers(), seeds)
def test_signed_form_fits_int8_below_eight_bits(layer, seed):
    """s8 x s8 with x_int itself where ``a + max e <= 7``, padding 0."""
    trace, w, _, z = _hardware_operands(layer, seed)
    x_int = (trace.codes.astype(np.int64) - z) << _shift_of_x(layer)
    if layer.act_bits + layer.input_shift.max() <= 7:
        assert x_int.min(initial=0) >= -128
        assert x_int.max(initial=0) <= 127
    acc = _sums(layer, x_int, w, np.zeros(len(layer.input_shift), np.int64))
    np.testing.assert_array_equal(acc, trace.accumulator)


@given(layers(conv=False), st.integers(1, 40), seeds)
def test_columns_beyond_k_hold_zero_activations(layer, extra, seed):
    """Words are padded to 32 columns whose weight is c0: zero activations there change nothing."""
    trace, w, shifted_sum, z = _hardware_operands(layer, seed)
    matrix = unpack(layer.weight)
    beyond = np.repeat(matrix.offset.astype(np.int64)[:, None], extra, axis=1)
    wide = np.concatenate([w, beyond], axis=1)
    unsigned = trace.codes.astype(np.int64) << layer.input_shift
    unsigned = np.pad(unsigned, [(0, 0)] * (unsigned.ndim - 1) + [(0, extra)])
    np.testing.assert_array_equal(unsigned @ wide.T - z * shifted_sum, trace.accumulator)


# --- epilogue ---------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1), normal_scales, normal_scales, floats32
)
def test_epilogue_rounds_every_operation(accumulators, act_scale, weight_scale, bias):
    """Products and sums of two float32 rounded through double are rounded correctly."""
    acc = np.array(accumulators, np.int32)
    y = epilogue(acc, np.float32(act_scale), np.float32([weight_scale]), np.float32([bias]))
    assert y.dtype == np.float32
    with np.errstate(invalid="ignore"):
        combined = to_float32(act_scale * weight_scale)
        expected = [
            to_float32(to_float32(to_float32(n) * np.float64(combined)) + bias)
            for n in accumulators
        ]
    np.testing.assert_array_equal(y, np.array(expected, np.float32))


# --- whole layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden(case: LayerCase):
    same_trace(run_layer(case.layer, case.x, case.step_index), case.expected)


def run_plainly(layer: PackedLayer, x: np.ndarray, step: int):
    """A layer from its definition; shares only ``unpack`` with the reference."""
    scale, z = float(layer.act_scale[step]), int(layer.act_zero_point[step])
    matrix = unpack(layer.weight)
    axis = -1 if layer.conv is None else 1
    codes = np.empty(x.shape, np.uint8)
    x_int = np.empty(x.shape, np.int64)
    for index in np.ndindex(x.shape):
        channel = index[axis]
        factor = float(layer.input_factor[channel])
        codes[index] = code_plainly(float(x[index]), scale, z, layer.act_bits, factor)
        x_int[index] = (int(codes[index]) - z) * 2 ** int(layer.input_shift[channel])
    w = matrix.integers().astype(np.int64)
    acc = x_int @ w.T if layer.conv is None else conv_plainly(x_int, w, layer.conv)
    y = np.empty(acc.shape, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for index in np.ndindex(acc.shape):
            row = index[axis]
            combined = np.float64(to_float32(scale * float(matrix.scale[row])))
            product = to_float32(to_float32(int(acc[index])) * combined)
            y[index] = to_float32(product + np.float64(layer.bias[row]))
    return codes, acc, y


@given(layers(), seeds)
def test_layer_is_the_contracts(layer, seed):
    check_layer(layer)
    x = inputs_for(layer, seed)
    step = seed % len(layer.act_scale)
    trace = run_layer(layer, x, step)
    codes, acc, y = run_plainly(layer, x, step)
    np.testing.assert_array_equal(trace.codes, codes)
    np.testing.assert_array_equal(trace.accumulator, acc)
    np.testing.assert_array_equal(trace.output, y)


@given(layers(conv=False), seeds)
def test_linear_is_a_1x1_convolution(layer, seed):
    x = inputs_for(layer, seed).reshape(-1, layer.input_channels)
    linear = run_layer(layer, x, 0)
    conv = run_layer(replace(layer, conv=ConvGeometry((1, 1))), x[:, :, None, None], 0)
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(linear, name), getattr(conv, name)[:, :, 0, 0])


def test_accumulators_can_be_read_through_a_node():
    """The contract's recipe: X = float(x_int), s = 1, r = 2**-e, S = 1, bias 0 gives y = acc."""
    rng = np.random.default_rng(0)
    shift = rng.integers(0, 5, 30).astype(np.int8)
    layer = random_layer(Draws(1), [3, 2, 2], 4, 30)
    layer = replace(
        layer,
        weight=replace(layer.weight, scale=np.ones(3, np.float32)),
        act_scale=np.ones(1, np.float32),
        act_zero_point=np.array([6], np.int32),
        input_shift=shift,
        input_factor=np.exp2(-shift.astype(np.float32)),
        bias=np.zeros(3, np.float32),
    )
    check_layer(layer)
    codes = rng.integers(0, 16, (4, 30))
    trace = run_layer(layer, ((codes - 6) << shift).astype(np.float32), 0)
    np.testing.assert_array_equal(trace.codes, codes)
    np.testing.assert_array_equal(trace.output, trace.accumulator.astype(np.float32))


@given(layers(conv=False), seeds)
def test_shifts_are_a_sum_of_layers(layer, seed):
    """Channels of one shift value at a time, their sums times 2**e, add up to the layer."""
    trace = run_layer(layer, inputs_for(layer, seed), 0)
    x_int = centred(trace.codes, int(layer.act_zero_point[0]))
    total = np.zeros_like(trace.accumulator)
    for shift in np.unique(layer.input_shift):
        w = unpack(layer.weight).integers() * (layer.input_shift == shift).astype(np.int8)
        total += accumulate_linear(x_int, w) * np.int32(2**shift)
    np.testing.assert_array_equal(total, trace.accumulator)
