"""The operators written out in standard ONNX: the oracle in the file, and its last resort.

A runtime that does not know ``MPQLinear`` or ``MPQConv`` runs these bodies; they compute the same
integers. Sums are products of float64 matrices, in which the contract's sums are exact on every
processor (``MatMulInteger`` saturates on some). One body per operator serves every node, and one
more every node with a residual: all else that differs between layers comes from inputs and
attributes.
"""

from __future__ import annotations

from functools import cache

import onnx

from .nodes import CONV, DOMAIN, INPUTS, LINEAR, OPSET, RESIDUAL

_HEADER = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'
_CONSTANTS = """
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    minus_one = Constant <value_int: int = -1> ()
    axis0 = Constant <value_ints: ints = [0]> ()
    axis1 = Constant <value_ints: ints = [1]> ()
    axis2 = Constant <value_ints: ints = [2]> ()
    flat = Constant <value_ints: ints = [-1]> ()
"""

# The int8 matrix as float32 [O, K] in original row order, `weight`, and its scales, `row_scale`.
# Planes are scattered to [P, O, K] and then summed: a scatter that adds would meet the same row
# once per plane, and runtimes may do that in parallel.
_UNPACK = """
    columns_scalar = Constant <value_int: int = @K> ()
    columns = Reshape (columns_scalar, flat)
    plane_rows = Constant <value_ints: ints = @plane_rows> ()
    mask64 = Constant <value: tensor = int64[32] {
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072,
        262144, 524288, 1048576, 2097152, 4194304, 8388608, 16777216, 33554432, 67108864,
        134217728, 268435456, 536870912, 1073741824, -2147483648}> ()
    mask = Cast <to: int = 6> (mask64)
    words = Unsqueeze (planes, axis2)
    masked = BitwiseAnd (words, mask)
    none = Cast <to: int = 6> (zero)
    clear = Equal (masked, none)
    is_set = Not (clear)
    bits3 = Cast <to: int = 1> (is_set)
    bits_shape = Constant <value_ints: ints = [0, -1]> ()
    bits_padded = Reshape (bits3, bits_shape)
    bits = Slice (bits_padded, axis0, columns, axis1)
    ends = CumSum (plane_rows, zero)
    starts = Sub (ends, plane_rows)
    stored_rows = ReduceSum <keepdims: int = 0> (plane_rows)
    stored = Range (zero, stored_rows, one)
    stored_column = Unsqueeze (stored, axis1)
    past = GreaterOrEqual (stored_column, ends)
    past_count = Cast <to: int = 7> (past)
    plane = ReduceSum <keepdims: int = 0> (past_count, axis1)
    plane_start = Gather (starts, plane)
    sorted_row = Sub (stored, plane_start)
    plane_row = Add (plane, one)
    plane_row_column = Unsqueeze (plane_row, axis1)
    sorted_row_column = Unsqueeze (sorted_row, axis1)
    where_step = Concat <axis: int = 1> (plane_row_column, sorted_row_column)
    all_steps = Cast <to: int = 1> (steps)
    step = GatherND (all_steps, where_step)
    step_column = Unsqueeze (step, axis1)
    contribution = Mul (bits, step_column)
    offset = Gather <axis: int = 0> (all_steps, zero)
    offset_column = Unsqueeze (offset, axis1)
    rows = Shape (row_order)
    matrix_shape = Concat <axis: int = 0> (rows, columns)
    base = Expand (offset_column, matrix_shape)
    order = Cast <to: int = 7> (row_order)
    order_column = Unsqueeze (order, axis1)
    zero_matrix = Sub (base, base)
    base_in_place = ScatterND (zero_matrix, order_column, base)
    target_row = Gather (order, sorted_row)
    target_row_column = Unsqueeze (target_row, axis1)
    plane_column = Unsqueeze (plane, axis1)
    target = Concat <axis: int = 1> (plane_column, target_row_column)
    plane_count = Shape (plane_rows)
    dense_shape = Concat <axis: int = 0> (plane_count, matrix_shape)
    dense_zeros = ConstantOfShape (dense_shape)
    dense = ScatterND (dense_zeros, target, contribution)
    plane_sum = ReduceSum <keepdims: int = 0> (dense, axis0)
    weight = Add (base_in_place, plane_sum)
    row_scale = ScatterElements <axis: int = 0> (scale, order, scale)
"""

# Activation integers, float32, `x_int`, for `factor` and `shift` that broadcast against X.
_QUANTIZE = """
    s = Gather (act_scale, step_index)
    zero_point = Gather (act_zero_point, step_index)
    z = Cast <to: int = 1> (zero_point)
    x = Cast <to: int = 1> (X)
    scaled = Mul (x, factor)
    divided = Div (scaled, s)
    rounded = Round (divided)
    moved = Add (rounded, z)
    not_a_number = IsNaN (moved)
    float_zero = Cast <to: int = 1> (zero)
    number = Where (not_a_number, float_zero, moved)
    two = Constant <value_float: float = 2.0> ()
    float_one = Constant <value_float: float = 1.0> ()
    act_bits_int = Constant <value_int: int = @act_bits> ()
    act_bits_float = Cast <to: int = 1> (act_bits_int)
    code_count = Pow (two, act_bits_float)
    top = Sub (code_count, float_one)
    code = Clip (number, float_zero, top)
    centred = Sub (code, z)
    shift_float = Cast <to: int = 1> (shift)
    power = Pow (two, shift_float)
    x_int = Mul (centred, power)
"""

# `result` from float64 sums `acc`; `row_scale` and `bias` are reshaped to broadcast against it.
_EPILOGUE = """
    acc_float = Cast <to: int = 1> (acc)
    combined = Mul (s, row_scale_shaped)
    product = Mul (acc_float, combined)
    sum = Add (product, bias_shaped)
    result = CastLike (sum, X)
"""

_LINEAR_ATTRIBUTES = "act_bits, plane_rows, K, layout, plugin_version, plugin_namespace"
_LINEAR = f"""
    {_CONSTANTS}{_UNPACK}
    factor = Identity (input_factor)
    shift = Identity (input_shift)
    {_QUANTIZE}
    weight_columns = Transpose <perm: ints = [1, 0]> (weight)
    weight64 = Cast <to: int = 11> (weight_columns)
    x64 = Cast <to: int = 11> (x_int)
    acc = MatMul (x64, weight64)
    row_scale_shaped = Identity (row_scale)
    bias_shaped = Identity (bias)
    {_EPILOGUE}
"""

# Patches are gathered by index so that every attribute stays a reference: window positions are
# `out * stride + tap * dilation`, for rows and columns of the padded input.
_CONV_ATTRIBUTES = f"{_LINEAR_ATTRIBUTES}, kernel_shape, strides, pads, dilations, group"
_CONV = f"""
    {_CONSTANTS}{_UNPACK}
    per_channel = Constant <value_ints: ints = [-1, 1, 1]> ()
    factor = Reshape (input_factor, per_channel)
    shift = Reshape (input_shift, per_channel)
    {_QUANTIZE}
    pads_hw = Constant <value_ints: ints = @pads> ()
    spatial_axes = Constant <value_ints: ints = [2, 3]> ()
    padded = Pad (x_int, pads_hw, float_zero, spatial_axes)
    kernel = Constant <value_ints: ints = @kernel_shape> ()
    stride = Constant <value_ints: ints = @strides> ()
    dilation = Constant <value_ints: ints = @dilations> ()
    group_scalar = Constant <value_int: int = @group> ()
    groups = Reshape (group_scalar, flat)
    padded_shape = Shape (padded)
    padded_hw = Gather (padded_shape, spatial_axes)
    kernel_less = Sub (kernel, one)
    reach = Mul (kernel_less, dilation)
    room = Sub (padded_hw, reach)
    room_less = Sub (room, one)
    moves = Div (room_less, stride)
    out_hw = Add (moves, one)
    out_h = Gather (out_hw, zero)
    out_w = Gather (out_hw, one)
    kernel_h = Gather (kernel, zero)
    kernel_w = Gather (kernel, one)
    stride_h = Gather (stride, zero)
    stride_w = Gather (stride, one)
    dilation_h = Gather (dilation, zero)
    dilation_w = Gather (dilation, one)
    out_rows = Range (zero, out_h, one)
    out_columns = Range (zero, out_w, one)
    tap_rows = Range (zero, kernel_h, one)
    tap_columns = Range (zero, kernel_w, one)
    window_rows = Mul (out_rows, stride_h)
    window_columns = Mul (out_columns, stride_w)
    tap_row_moves = Mul (tap_rows, dilation_h)
    tap_column_moves = Mul (tap_columns, dilation_w)
    tap_row_moves_c = Unsqueeze (tap_row_moves, axis1)
    tap_column_moves_c = Unsqueeze (tap_column_moves, axis1)
    row_index = Add (tap_row_moves_c, window_rows)
    column_index = Add (tap_column_moves_c, window_columns)
    by_rows = Gather <axis: int = 2> (padded, row_index)
    patches = Gather <axis: int = 4> (by_rows, column_index)
    batch = Shape <start: int = 0, end: int = 1> (padded)
    channels = Shape <start: int = 1, end: int = 2> (padded)
    group_channels = Div (channels, groups)
    grouped_shape = Concat <axis: int = 0> (batch, groups, group_channels, kernel, out_hw)
    kh_first = Transpose <perm: ints = [0, 1, 2, 4, 3, 5]> (patches)
    grouped = Reshape (kh_first, grouped_shape)
    taps_then_channel = Transpose <perm: ints = [0, 1, 5, 6, 3, 4, 2]> (grouped)
    positions = Mul (out_h, out_w)
    positions1 = Reshape (positions, flat)
    lhs_shape = Concat <axis: int = 0> (batch, groups, positions1, columns)
    lhs = Reshape (taps_then_channel, lhs_shape)
    lhs64 = Cast <to: int = 11> (lhs)
    weight_shape = Concat <axis: int = 0> (groups, flat, columns)
    weight_groups = Reshape (weight, weight_shape)
    weight_columns = Transpose <perm: ints = [0, 2, 1]> (weight_groups)
    weight64 = Cast <to: int = 11> (weight_columns)
    sums = MatMul (lhs64, weight64)
    sums_first = Transpose <perm: ints = [0, 1, 3, 2]> (sums)
    out_shape = Concat <axis: int = 0> (batch, rows, out_hw)
    acc = Reshape (sums_first, out_shape)
    row_scale_shaped = Reshape (row_scale, per_channel)
    bias_shaped = Reshape (bias, per_channel)
    {_EPILOGUE}
"""

# How `result` becomes Y, by overload.
_LAST = {"": "Y = Identity (result)", RESIDUAL: f"Y = Add (result, {RESIDUAL})"}


@cache
def function_bodies() -> tuple[onnx.FunctionProto, ...]:
    """The bodies of ``MPQLinear`` and ``MPQConv``, without a residual and with one.

    Register them in a model's ``functions``.
    """
    return tuple(
        _body(op_type, attributes, text, overload)
        for overload in _LAST
        for op_type, attributes, text in (
            (LINEAR, _LINEAR_ATTRIBUTES, _LINEAR),
            (CONV, _CONV_ATTRIBUTES, _CONV),
        )
    )


def _body(op_type: str, attributes: str, text: str, overload: str) -> onnx.FunctionProto:
    inputs = ", ".join((*INPUTS, overload) if overload else INPUTS)
    body = onnx.parser.parse_function(
        f"{_HEADER} {op_type} <{attributes}> ({inputs}) => (Y) {{{text}{_LAST[overload]}}}"
    )
    body.overload = overload
    body.doc_string = "The bit-plane contract in standard operators; see docs/format.md."
    return body
