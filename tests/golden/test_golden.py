"""The golden cases are what the reference makes today, and they catch the usual mistakes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from golden.generate import CASES, generate
from golden.layer_cases import layer_inputs
from golden.reader import LayerCase, layer_cases, snap_cases
from mpq_export.core.integer_reference import (
    ConvGeometry,
    accumulate_conv,
    accumulate_linear,
    activation_codes,
    centred,
    check_layer,
    epilogue,
    run_layer,
)
from mpq_export.core.planes import pack, unpack


def test_committed_cases_are_regenerated_byte_for_byte(tmp_path):
    generate(tmp_path)
    fresh = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in CASES.iterdir()}
    assert fresh.keys() == committed.keys()
    assert [name for name in fresh if fresh[name] != committed[name]] == []


def test_reader_gives_back_every_layer_that_was_written():
    written = {case.name: case for case in layer_inputs()}
    read = {case.name: case for case in layer_cases()}
    assert written.keys() == read.keys()
    for name, case in read.items():
        check_layer(case.layer)
        trace = run_layer(written[name].layer, written[name].x, written[name].step_index)
        np.testing.assert_array_equal(case.x, written[name].x)
        assert case.x.dtype == written[name].x.dtype
        assert case.layer.conv == written[name].layer.conv
        for field in ("codes", "accumulator", "output"):
            np.testing.assert_array_equal(getattr(case.expected, field), getattr(trace, field))


def test_snap_rows_keep_the_contract():
    for case in snap_cases():
        pack(case.rows)


def test_set_is_small_enough_to_commit():
    assert sum(path.stat().st_size for path in CASES.iterdir()) < 400_000


def test_outputs_are_numbers():
    """NaN would make every comparison fail, or hide that one fails."""
    assert not any(np.isnan(case.expected.output).any() for case in layer_cases())


def test_cases_cover_what_the_contract_lists():
    layers = [case.layer for case in layer_cases()]
    linear, conv = ([x for x in layers if (x.conv is None) is kind] for kind in (True, False))
    for some in (linear, conv):
        assert any(layer.weight.columns % 32 for layer in some)
        assert any(layer.weight.columns == 1 for layer in some)
        assert any(layer.weight.rows == 1 for layer in some)
        assert any(len(set(layer.weight.plane_rows)) > 1 for layer in some)
        assert any(np.any(layer.input_shift) for layer in some)
        assert any(layer.act_bits + layer.input_shift.max() == 8 > layer.act_bits for layer in some)
        assert any(np.any(layer.input_factor != 1) for layer in some)
    assert {len(layer.weight.plane_rows) for layer in linear} == set(range(1, 9))
    assert {layer.act_bits for layer in linear} == set(range(2, 9))
    geometries = [layer.conv for layer in conv]
    assert any(g.group > 1 for g in geometries)
    assert any(g.strides != (1, 1) for g in geometries)
    assert any(g.dilations != (1, 1) for g in geometries)
    assert any(len(set(g.pads)) > 2 for g in geometries)
    assert {case.x.ndim for case in layer_cases() if case.layer.conv is None} == {1, 2, 3, 4}
    assert {case.x.dtype.name for case in layer_cases()} == {"float32", "float16"}
    assert max(int(np.abs(case.expected.accumulator).max()) for case in layer_cases()) > 2**24


# --- mistakes that backends make, each of which must change some case ------------------------


def _parts(case: LayerCase):
    layer = case.layer
    scale = layer.act_scale[case.step_index]
    zero_point = int(layer.act_zero_point[case.step_index])
    channel = (slice(None),) if layer.conv is None else (slice(None), None, None)
    return layer, scale, zero_point, channel, unpack(layer.weight)


def _sums(case: LayerCase, x_int):
    layer, _, _, _, matrix = _parts(case)
    if layer.conv is None:
        return accumulate_linear(x_int, matrix.integers())
    return accumulate_conv(x_int, matrix.integers(), layer.conv)


def _scaled(case: LayerCase):
    """float32 x * r, the number that is divided by the step."""
    layer, _, _, channel, _ = _parts(case)
    return case.x.astype(np.float32) * layer.input_factor[channel]


def _codes(case: LayerCase, rounded):
    layer, _, zero_point, _, _ = _parts(case)
    moved = np.nan_to_num(rounded + np.float32(zero_point), nan=0.0)
    return np.clip(moved, 0, 2**layer.act_bits - 1).astype(np.uint8)


def _reciprocal(case: LayerCase) -> bool:
    scale = _parts(case)[1]
    codes = _codes(case, np.rint(_scaled(case) * (np.float32(1) / scale)))
    return np.array_equal(codes, case.expected.codes)


def _divide_first(case: LayerCase) -> bool:
    layer, scale, _, channel, _ = _parts(case)
    codes = _codes(case, np.rint(case.x.astype(np.float32) / scale * layer.input_factor[channel]))
    return np.array_equal(codes, case.expected.codes)


def _round_half_away(case: LayerCase) -> bool:
    quotient = (_scaled(case) / _parts(case)[1]).astype(np.float64)
    codes = _codes(case, np.sign(quotient) * np.floor(np.abs(quotient) + 0.5))
    return np.array_equal(codes, case.expected.codes)


def _add_zero_point_before_rounding(case: LayerCase) -> bool:
    _, scale, zero_point, _, _ = _parts(case)
    codes = _codes(case, np.rint(_scaled(case) / scale + np.float32(zero_point)) - zero_point)
    return np.array_equal(codes, case.expected.codes)


def _flush_denormal_inputs(case: LayerCase) -> bool:
    scaled = _scaled(case)
    flushed = np.where(np.abs(scaled) < np.finfo(np.float32).tiny, np.float32(0), scaled)
    return np.array_equal(_codes(case, np.rint(flushed / _parts(case)[1])), case.expected.codes)


def _nan_is_zero(case: LayerCase) -> bool:
    codes = _codes(case, np.rint(np.nan_to_num(_scaled(case), nan=0.0) / _parts(case)[1]))
    return np.array_equal(codes, case.expected.codes)


def _convert_before_clamping(case: LayerCase) -> bool:
    layer, scale, zero_point, _, _ = _parts(case)
    wide = np.rint(_scaled(case) / scale).astype(np.float64)
    # x86 converts what does not fit to the least int32.
    fits = np.abs(wide) < 2**31
    whole = np.where(fits, wide, -(2**31)).astype(np.int64) + zero_point
    codes = np.clip(whole, 0, 2**layer.act_bits - 1)
    return np.array_equal(codes, case.expected.codes)


def _float32_sums(case: LayerCase) -> bool:
    if case.layer.conv is not None:
        return True
    layer, scale, zero_point, channel, matrix = _parts(case)
    x_int = centred(case.expected.codes, zero_point, layer.input_shift[channel])
    products = x_int[..., None, :].astype(np.float32) * matrix.integers().astype(np.float32)
    acc = np.cumsum(products, axis=-1, dtype=np.float32)[..., -1]
    output = epilogue(acc, scale, matrix.scale, layer.bias)
    return np.array_equal(output, case.expected.output)


def _saturating_pairs(case: LayerCase) -> bool:
    """vpmaddubsw: u8 * s8, neighbours added with int16 saturation."""
    if case.layer.conv is not None:
        return True
    layer, _, zero_point, _, matrix = _parts(case)
    weights = matrix.integers().astype(np.int64)
    unsigned = case.expected.codes.astype(np.int64) << layer.input_shift
    products = unsigned[..., None, :] * weights
    products = np.concatenate([products, np.zeros((*products.shape[:-1], 1), np.int64)], axis=-1)
    pairs = products[..., : products.shape[-1] // 2 * 2].reshape(*products.shape[:-1], -1, 2)
    sums = np.clip(pairs.sum(axis=-1), -(2**15), 2**15 - 1).sum(axis=-1)
    correction = zero_point * (weights << layer.input_shift).sum(axis=1)
    return np.array_equal(sums - correction, case.expected.accumulator)


def _epilogue_with(case: LayerCase, formula: Callable) -> bool:
    layer, scale, _, channel, matrix = _parts(case)
    acc = case.expected.accumulator.astype(np.float32)
    output = formula(acc, scale, matrix.scale[channel], layer.bias[channel])
    return np.array_equal(output, case.expected.output)


def _fused_epilogue(case: LayerCase) -> bool:
    def fused(acc, scale, weight_scale, bias):
        product = acc.astype(np.float64) * (scale * weight_scale)
        return (product + bias).astype(np.float32)

    return _epilogue_with(case, fused)


def _scale_one_after_the_other(case: LayerCase) -> bool:
    return _epilogue_with(case, lambda acc, s, weight, bias: acc * s * weight + bias)


def _flush_denormal_outputs(case: LayerCase) -> bool:
    output = case.expected.output
    return not np.any((output != 0) & (np.abs(output) < np.finfo(np.float32).tiny))


def _pad_with_code_zero(case: LayerCase) -> bool:
    layer, _, zero_point, channel, _ = _parts(case)
    if layer.conv is None:
        return True
    top, left, bottom, right = layer.conv.pads
    codes = np.pad(case.expected.codes, ((0, 0), (0, 0), (top, bottom), (left, right)))
    x_int = centred(codes, zero_point, layer.input_shift[channel])
    return _same_unpadded(case, x_int)


def _pad_top_and_left_swapped(case: LayerCase) -> bool:
    layer, _, zero_point, channel, _ = _parts(case)
    if layer.conv is None:
        return True
    top, left, bottom, right = layer.conv.pads
    x_int = centred(case.expected.codes, zero_point, layer.input_shift[channel])
    return _same_unpadded(case, np.pad(x_int, ((0, 0), (0, 0), (left, right), (top, bottom))))


def _same_unpadded(case: LayerCase, x_int) -> bool:
    """Whether the sums of an input that is already padded are the expected ones."""
    layer, _, _, _, matrix = _parts(case)
    conv = layer.conv
    unpadded = ConvGeometry(conv.kernel_shape, conv.strides, (0,) * 4, conv.dilations, conv.group)
    if min(unpadded.output_size(*x_int.shape[2:])) < 1:
        return False
    return np.array_equal(
        accumulate_conv(x_int, matrix.integers(), unpadded), case.expected.accumulator
    )


def _forget_row_order(case: LayerCase) -> bool:
    order = case.layer.weight.row_order
    axis = -1 if case.layer.conv is None else 1
    sorted_sums = np.take(case.expected.accumulator, order, axis=axis)
    return np.array_equal(sorted_sums, case.expected.accumulator)


def _shift_ignored(case: LayerCase) -> bool:
    _, _, zero_point, _, _ = _parts(case)
    return np.array_equal(
        _sums(case, centred(case.expected.codes, zero_point)), case.expected.accumulator
    )


def _other_step(case: LayerCase) -> bool:
    layer = case.layer
    first = activation_codes(
        _scaled(case), layer.act_scale[0], int(layer.act_zero_point[0]), layer.act_bits
    )
    return np.array_equal(first, case.expected.codes)


@pytest.mark.parametrize(
    "unharmed",
    [
        _reciprocal,
        _divide_first,
        _round_half_away,
        _add_zero_point_before_rounding,
        _flush_denormal_inputs,
        _nan_is_zero,
        _convert_before_clamping,
        _float32_sums,
        _saturating_pairs,
        _fused_epilogue,
        _scale_one_after_the_other,
        _flush_denormal_outputs,
        _pad_with_code_zero,
        _pad_top_and_left_swapped,
        _forget_row_order,
        _shift_ignored,
        _other_step,
    ],
)
def test_mistake_is_caught_by_some_case(unharmed):
    with np.errstate(all="ignore"):
        assert [case.name for case in layer_cases() if not unharmed(case)]
