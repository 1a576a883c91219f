"""The kernels' order is a permutation of the canonical form, and costs what it says."""

from __future__ import annotations

import numpy as np
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import layer_cases
from hypothesis import given

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer
from mpq_export.core.kernel_layout import TILE_ROWS, from_kernel_layout, to_kernel_layout
from mpq_export.core.planes import unpack

from .strategies import layers


def _assert_undone(layer: PackedLayer) -> None:
    kernel = to_kernel_layout(layer)
    found = from_kernel_layout(kernel)
    for name in ("planes", "plane_rows", "steps", "scale", "row_order"):
        expected = getattr(layer.weight, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
        assert getattr(found, name).dtype == expected.dtype
    assert found.columns == layer.weight.columns
    real = kernel.output_rows >= 0
    np.testing.assert_array_equal(kernel.bias[real], layer.bias[kernel.output_rows[real]])
    assert not kernel.steps[:, ~real].any()


@given(layers())
def test_inverse_gives_back_the_canonical_form(layer):
    _assert_undone(layer)


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_inverse_gives_back_the_golden_cases(case):
    _assert_undone(case.layer)


@pytest.mark.parametrize("planes", range(1, 9))
def test_inverse_of_several_tiles_and_blocks(planes):
    counts = [planes] * 33 + [max(1, planes - 1)] * 40 + [min(8, planes + 1)] * 5
    layer = random_layer(Draws(planes), counts, 4, 40, ConvGeometry((3, 3)))
    _assert_undone(layer)


def test_row_sums_are_those_of_the_weights():
    layer = random_layer(Draws(0), [3, 2, 4], 4, 50, top_shift=3)
    kernel = to_kernel_layout(layer)
    weights = unpack(layer.weight).integers().astype(int)[layer.weight.row_order]
    np.testing.assert_array_equal(kernel.row_sums[0, :3], weights.sum(axis=1))
    shifted = weights << layer.input_shift.astype(int)
    np.testing.assert_array_equal(kernel.row_sums[1, :3], shifted.sum(axis=1))


def test_a_bit_lies_where_the_specification_says():
    """docs/gpu_kernels.md: row 16f + 8e + g, column 64h + 16t + 4q + i; one plane, one tile."""
    layer = random_layer(Draws(1), [1] * TILE_ROWS, 4, 256)
    codes = unpack(layer.weight).codes
    words = to_kernel_layout(layer).words.reshape(2, 2, 1, 32, 2).view(np.uint32)
    for row, column in ((0, 0), (31, 255), (21, 77), (8, 130), (16, 64)):
        (f, e, g), (block, rest) = (row // 16, row // 8 % 2, row % 8), divmod(column, 128)
        h, t, q, i = rest // 64, rest // 16 % 4, rest // 4 % 4, rest % 4
        bit = 4 * (4 * e + i) + t
        assert (words[block, h, 0, 4 * g + q, f] >> bit) & 1 == codes[row, column]


def test_mixed_rows_cost_little_more_than_their_planes():
    """A layer of 320 rows at 3 bits on average, K = 2880."""
    layer = random_layer(Draws(2), [4] * 32 + [3] * 256 + [2] * 32, 4, 320, ConvGeometry((3, 3)))
    kernel = to_kernel_layout(layer)
    assert kernel.words.nbytes <= 1.03 * layer.weight.planes.nbytes
    uneven = random_layer(Draws(3), [4] * 50 + [3] * 220 + [2] * 50, 4, 320, ConvGeometry((3, 3)))
    assert to_kernel_layout(uneven).words.nbytes <= 1.08 * uneven.weight.planes.nbytes
