"""What ``check_layer`` refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.integer_reference import (
    ConvGeometry,
    PackedLayer,
    check_layer,
    column_factors,
    input_channels,
)
from mpq_export.core.planes import ContractError

from .strategies import (
    plane_matrices,
)


def _layer(columns: int = 12) -> PackedLayer:
    return random_layer(Draws(1), [3, 2, 2], 4, columns)


def _conv_layer(**changes: Any) -> PackedLayer:
    conv = ConvGeometry((2, 2), pads=(1, 0, 0, 1), group=2)
    return replace(random_layer(Draws(2), [2] * 4, 4, 6, conv), **changes)


_INT, _FLOAT = np.int32, np.float32
_LAYER_BREAKAGES: dict[str, tuple[dict[str, Any], str]] = {
    "one activation bit": ({"act_bits": 1}, "activation bits"),
    "nine activation bits": ({"act_bits": 9}, "activation bits"),
    "bias too short": ({"bias": np.zeros(2, _FLOAT)}, "bias is"),
    "bias of another type": ({"bias": np.zeros(3)}, "bias is float64"),
    "bias NaN": ({"bias": np.array([0, np.nan, 0], _FLOAT)}, "bias has"),
    "bias infinite": ({"bias": np.array([0, -np.inf, 0], _FLOAT)}, "bias has"),
    "empty table": (
        {"act_scale": np.zeros(0, _FLOAT), "act_zero_point": np.zeros(0, _INT)},
        "empty",
    ),
    "tables of two lengths": ({"act_scale": np.ones(2, _FLOAT)}, "act_zero_point is"),
    "scale zero": ({"act_scale": np.array([1, 0, 1], _FLOAT)}, "act_scale has"),
    "scale negative": ({"act_scale": np.array([1, -1, 1], _FLOAT)}, "act_scale has"),
    "scale NaN": ({"act_scale": np.array([1, np.nan, 1], _FLOAT)}, "act_scale has"),
    "scale infinite": ({"act_scale": np.array([1, np.inf, 1], _FLOAT)}, "act_scale has"),
    "scale subnormal": ({"act_scale": np.array([1, 1e-39, 1], _FLOAT)}, "act_scale has"),
    "scale of another type": ({"act_scale": np.ones(3, np.float16)}, "act_scale is"),
    "zero point negative": ({"act_zero_point": np.array([0, -1, 0], _INT)}, "zero point"),
    "zero point too large": ({"act_zero_point": np.array([0, 16, 0], _INT)}, "zero point"),
    "zero point of another type": ({"act_zero_point": np.zeros(3, np.uint8)}, "act_zero_point is"),
    "factor zero": ({"input_factor": np.eye(12, dtype=_FLOAT)[0]}, "input_factor has"),
    "factor infinite": ({"input_factor": np.full(12, np.inf, _FLOAT)}, "input_factor has"),
    "factor too short": ({"input_factor": np.ones(11, _FLOAT)}, "input_factor is"),
    "shift negative": ({"input_shift": np.full(12, -1, np.int8)}, "input shift"),
    "shift too large": ({"input_shift": np.full(12, 5, np.int8)}, "exceeds 8"),
    "shift huge": ({"input_shift": np.full(12, 127, np.int8)}, "exceeds 8"),
    "shift of another type": ({"input_shift": np.zeros(12, _INT)}, "input_shift is"),
    "kernel that does not divide K": ({"conv": ConvGeometry((5, 1))}, "do not divide into 5"),
    "channels of a kernel": ({"conv": ConvGeometry((2, 2))}, "input_factor is"),
    "rows that do not divide": ({"conv": ConvGeometry((1, 1), group=2)}, "3 rows do not divide"),
    "unequal planes in groups": ({"conv": ConvGeometry((1, 1), group=3)}, "equal plane counts"),
}


@pytest.mark.parametrize("name", _LAYER_BREAKAGES)
def test_check_layer_refuses(name):
    layer = _layer()
    check_layer(layer)
    changes, message = _LAYER_BREAKAGES[name]
    with pytest.raises(ContractError, match=message):
        check_layer(replace(layer, **changes))


def test_check_layer_checks_the_weight():
    layer = _layer()
    broken = replace(layer.weight, scale=-layer.weight.scale)
    with pytest.raises(ContractError, match="scale"):
        check_layer(replace(layer, weight=broken))


@pytest.mark.parametrize("bits", range(2, 9))
def test_shift_may_fill_eight_bits_and_no_more(bits):
    table = {"act_scale": np.ones(1, _FLOAT), "act_zero_point": np.array([2**bits - 1], _INT)}
    fits = replace(_layer(), act_bits=bits, input_shift=np.full(12, 8 - bits, np.int8), **table)
    check_layer(fits)
    with pytest.raises(ContractError, match="exceeds 8"):
        check_layer(replace(fits, input_shift=np.full(12, 9 - bits, np.int8)))


@given(plane_matrices(), st.integers(1, 3))
def test_input_channels(matrix, group):
    columns = matrix.codes.shape[1]
    assert input_channels(columns, None) == columns
    assert input_channels(columns * 6, ConvGeometry((2, 3), group=group)) == columns * group


def test_column_factors_follow_the_weights_columns():
    conv = ConvGeometry((1, 2), group=2)
    spread = column_factors(np.array([10, 20, 30, 40]), conv, rows=4)
    np.testing.assert_array_equal(spread, [[10, 20, 10, 20]] * 2 + [[30, 40, 30, 40]] * 2)
    one_group = column_factors(np.array([10, 20]), ConvGeometry((1, 2)), rows=3)
    np.testing.assert_array_equal(one_group, [[10, 20, 10, 20]])
    np.testing.assert_array_equal(column_factors(np.array([1, 2]), None, 3), [[1, 2]])


def test_conv_layer_fixture_is_valid():
    check_layer(_conv_layer())
    with pytest.raises(ContractError, match="input_shift is"):
        check_layer(_conv_layer(input_shift=np.zeros(3, np.int8)))
