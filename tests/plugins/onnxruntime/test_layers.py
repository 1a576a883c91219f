"""Every set of kernels computes what the numpy reference defines, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core.strategies import inputs_for, layers, seeds
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowering.models import residual_shapes

from mpq_export.core.integer_reference import ConvGeometry, add_residual, run_layer
from mpq_export.core.planes import MAX_COLUMNS

from .sessions import every_kernel, run_layer_natively, same_bits

AWKWARD = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-39, 1.1754942e-38, 3.4e38, -3.4e38],
    np.float32,
)


def assert_exact(layer, x, step_index, kernels, threads=2):
    with np.errstate(all="ignore"):
        expected = run_layer(layer, x, step_index).output.astype(x.dtype)
    assert same_bits(run_layer_natively(layer, x, step_index, kernels, threads), expected)


@every_kernel
@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden(case: LayerCase, kernels: str):
    y = run_layer_natively(case.layer, case.x, case.step_index, kernels)
    assert same_bits(y, case.y)


@every_kernel
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), layer=layers(), seed=seeds)
def test_any_layer(kernels: str, data: st.DataObject, layer, seed: int):
    x = inputs_for(layer, seed)
    x = x.astype(data.draw(st.sampled_from([np.float32, np.float32, np.float16])))
    step_index = data.draw(st.integers(0, layer.act_scale.size - 1))
    if data.draw(st.booleans()):
        rng = np.random.default_rng(seed)
        where = rng.random(x.shape) < 0.2
        with np.errstate(over="ignore", under="ignore"):
            x[where] = rng.choice(AWKWARD, where.sum())
    assert_exact(layer, x, step_index, kernels, threads=data.draw(st.integers(1, 3)))


@every_kernel
@pytest.mark.parametrize("conv", [None, ConvGeometry((1, 1))], ids=["linear", "conv"])
@pytest.mark.parametrize(
    "factor", [1.0, 0.77, 2.0**-59 * 1.7, 2.0**58 * 1.3, 2.0**-62 * 1.7, 2.0**61 * 1.3]
)
@pytest.mark.parametrize("act_bits", [3, 8])
def test_ties_and_their_neighbours(act_bits: int, factor: float, conv, kernels: str):
    """Quotients at, just below and just above every half, for awkward steps and factors."""
    steps = np.float32([1 / 3, 0.1, 0.37, 1.5, 2.0**-130 * 1.1, 2.0**100 * 1.3])
    layer = random_layer(Draws(act_bits), [3] * 5, act_bits, 96, conv)
    layer = replace(
        layer,
        act_scale=np.maximum(steps, np.finfo(np.float32).tiny),
        act_zero_point=np.full(len(steps), 2 ** (act_bits - 1), np.int32),
        input_factor=np.full(96, factor, np.float32),
    )
    halves = np.arange(-150, 150, dtype=np.float32) + np.float32(0.5)
    for index, step in enumerate(layer.act_scale):
        with np.errstate(over="ignore", under="ignore"):
            middle = (halves * np.float64(step) / np.float32(factor)).astype(np.float32)
        ties = [middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
        values = np.concatenate([*ties, AWKWARD]).astype(np.float32)
        shape = (10, 96) if conv is None else (1, 96, 3, 5)
        assert_exact(layer, np.resize(values, shape), index, kernels)


@every_kernel
@pytest.mark.parametrize(
    ("channels", "rows", "size", "conv"),
    [
        (32, 70, (17, 19), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))),
        (64, 33, (16, 16), ConvGeometry((3, 3), (2, 2), (0, 0, 1, 1))),
        (48, 65, (9, 31), ConvGeometry((1, 1))),
        # Output rows of whole sixteens and channels in sixty-fours: read without unfolding.
        (64, 70, (5, 32), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))),
        (128, 33, (9, 18), ConvGeometry((3, 3), (2, 1), (1, 0, 1, 0))),
        (128, 66, (6, 16), ConvGeometry((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 2)),
        (192, 40, (3, 48), ConvGeometry((1, 1))),
        (24, 36, (12, 10), ConvGeometry((3, 2), (1, 2), (2, 0, 1, 1), (2, 1), 12)),
    ],
)
def test_convolutions_larger_than_a_tile(channels, rows, size, conv, kernels):
    counts = [3] * rows if conv.group > 1 else [2, 3, 4, 5, 3] * (rows // 5) + [1] * (rows % 5)
    layer = random_layer(Draws(rows), counts, 6, channels, conv, top_shift=2, factors=True)
    x = Draws(7).bell((3, channels, *size)).astype(np.float32)
    for threads in (1, 2, 5):
        assert_exact(layer, x, 1, kernels, threads)


@every_kernel
@pytest.mark.parametrize(("columns", "rows", "count"), [(640, 100, 77), (65, 513, 3), (31, 2, 400)])
def test_linear_layers_larger_than_a_tile(columns, rows, count, kernels):
    layer = random_layer(Draws(columns), [4] * rows, 8, columns)
    assert_exact(layer, Draws(8).bell((count, columns)).astype(np.float32), 2, kernels)


@every_kernel
@pytest.mark.parametrize("zero_point", [0, 255])
def test_the_longest_row_there_is(zero_point, kernels):
    """K = 66311 of the largest numbers: unsigned products leave int32 before they are corrected."""
    layer = random_layer(Draws(3), [2, 1], 8, MAX_COLUMNS)
    layer.act_zero_point[:] = zero_point
    x = np.full((2, MAX_COLUMNS), 1e9 if zero_point == 0 else -1e9, np.float32)
    x[1, ::3] = 0
    assert_exact(layer, x, 0, kernels)


@every_kernel
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), layer=layers(), seed=seeds)
def test_any_layer_with_a_residual(kernels: str, data: st.DataObject, layer, seed: int):
    rng = np.random.default_rng(seed)
    x = inputs_for(layer, seed).astype(data.draw(st.sampled_from([np.float32, np.float16])))
    step_index = data.draw(st.integers(0, layer.act_scale.size - 1))
    with np.errstate(all="ignore"):
        y = run_layer(layer, x, step_index).output.astype(x.dtype)
        forms = residual_shapes(y.shape, layer.conv is not None)
        residual = rng.standard_normal(data.draw(st.sampled_from(forms))) * np.std(y)
        where = rng.random(residual.shape) < 0.1
        residual[where] = rng.choice(AWKWARD, where.sum())
        residual = residual.astype(x.dtype)
    threads = data.draw(st.integers(1, 3))
    found = run_layer_natively(layer, x, step_index, kernels, threads, residual)
    assert same_bits(found, add_residual(y, residual))


@every_kernel
@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize(
    ("channels", "rows", "size"), [(64, 70, (5, 32)), (48, 65, (9, 31))], ids=["direct", "unfolded"]
)
def test_residuals_of_convolutions_larger_than_a_tile(channels, rows, size, form, kernels):
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
    layer = random_layer(Draws(rows), [3] * rows, 6, channels, geometry)
    x = Draws(7).bell((3, channels, *size)).astype(np.float32)
    y = run_layer(layer, x, 1).output
    residual = Draws(9).bell(residual_shapes(y.shape, True)[form]).astype(np.float32)
    for threads in (1, 2, 5):
        found = run_layer_natively(layer, x, 1, kernels, threads, residual)
        assert same_bits(found, add_residual(y, residual))


@every_kernel
@pytest.mark.parametrize(("columns", "rows", "count"), [(640, 100, 77), (65, 513, 3)])
def test_residuals_of_linear_layers_larger_than_a_tile(columns, rows, count, kernels):
    layer = random_layer(Draws(columns), [4] * rows, 8, columns)
    x = Draws(8).bell((count, columns)).astype(np.float32)
    y = run_layer(layer, x, 2).output
    residual = Draws(9).bell(y.shape).astype(np.float32)
    found = run_layer_natively(layer, x, 2, kernels, residual=residual)
    assert same_bits(found, add_residual(y, residual))


@every_kernel
def test_empty_batches_give_empty_outputs(kernels):
    linear = random_layer(Draws(1), [2, 1], 4, 5)
    assert run_layer_natively(linear, np.zeros((0, 3, 5), np.float32), 0, kernels).shape == (
        0, 3, 2,
    )  # fmt: skip
    conv = random_layer(Draws(1), [2, 1], 4, 5, ConvGeometry((1, 1)))
    y = run_layer_natively(conv, np.zeros((0, 5, 3, 4), np.float16), 0, kernels)
    assert y.shape == (0, 2, 3, 4)


@every_kernel
def test_every_float16_is_widened_and_rounded_exactly(kernels):
    """X: all 65,536 of them. Y: values between neighbouring float16 numbers, at every exponent."""
    layer = random_layer(Draws(2), [3] * 8, 8, 64)
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    for exponent in range(-40, 32, 4):
        layer.weight.scale[:] = np.float32(2.0**exponent) * np.linspace(1, 2, 8, dtype=np.float32)
        layer.bias[:] = 0
        assert_exact(layer, x, 0, kernels)
