"""Hypothesis strategies: awkward weight rows, real levels, packed matrices, geometries, layers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer
from mpq_export.core.planes import LIMIT, PlaneMatrix, SnappedLevels, pack

TINY = float(np.finfo(np.float32).tiny)
HUGE = float(np.finfo(np.float32).max)
seeds = st.integers(0, 2**32 - 1)
floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_floats32 = st.floats(width=32)
normal_scales = st.floats(TINY, HUGE, width=32) | st.floats(2.0**-12, 2.0**12, width=32)

_ROW_KINDS = {
    "normal": lambda rng, k: rng.standard_normal(k),
    "zero": lambda rng, k: np.zeros(k),
    "constant": lambda rng, k: np.full(k, rng.standard_normal()),
    "two values": lambda rng, k: rng.choice(rng.standard_normal(2), k),
    "grid": lambda rng, k: rng.integers(-8, 8, k) / 8,
    "subnormal": lambda rng, k: rng.standard_normal(k) * 1e-40,
    "barely normal": lambda rng, k: rng.standard_normal(k) * TINY * 2.0 ** rng.integers(0, 12),
    "huge": lambda rng, k: rng.uniform(-1, 1, k) * 3.3e38,
    "extreme signs": lambda rng, k: rng.choice([-HUGE, HUGE, 0.0], k),
    "negative": lambda rng, k: -np.abs(rng.standard_normal(k)) - rng.uniform(0, 3),
    "positive": lambda rng, k: np.abs(rng.standard_normal(k)) + rng.uniform(0, 3),
    "nearly constant": lambda rng, k: 1 + rng.standard_normal(k) * 1e-7,
    "outlier": lambda rng, k: np.where(np.arange(k) == rng.integers(k), 1e4, 1e-4 * rng.random(k)),
    "heavy": lambda rng, k: rng.standard_cauchy(k),
    "all magnitudes": lambda rng, k: rng.choice([-1, 1], k) * 10.0 ** rng.uniform(-44, 38, k),
}


@st.composite
def weight_rows(draw: st.DrawFn, max_rows: int = 6, max_columns: int = 70) -> NDArray[np.float64]:
    """Float64 ``[O, K]`` whose values are float32; every row is awkward in its own way."""
    rng = np.random.default_rng(draw(seeds))
    columns = draw(st.integers(1, max_columns))
    kinds = draw(st.lists(st.sampled_from(sorted(_ROW_KINDS)), min_size=1, max_size=max_rows))
    rows = np.stack([_ROW_KINDS[kind](rng, columns) for kind in kinds])
    return np.clip(rows, -HUGE, HUGE).astype(np.float32).astype(np.float64)


@st.composite
def real_levels(
    draw: st.DrawFn, weights: NDArray[np.float64], planes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offset ``[O]`` and non-negative steps ``[O, P]``: near a grid over each row, or anything."""
    rng = np.random.default_rng(draw(seeds))
    rows = len(weights)
    if draw(st.booleans()):
        low, high = weights.min(axis=1), weights.max(axis=1)
        finest = (high - low) / (2**planes - 1)
        steps = finest[:, None] * 2.0 ** np.arange(planes) * rng.uniform(0.3, 1.5, (rows, planes))
        return low * rng.uniform(0.5, 1.1, rows), steps
    magnitude = 10.0 ** rng.uniform(-320, 300, (rows, 1))
    steps = rng.uniform(0, 1, (rows, planes)) * magnitude
    steps *= rng.random((rows, planes)) > 0.2
    return rng.uniform(-2, 1, rows) * magnitude[:, 0], steps


@st.composite
def plane_matrices(
    draw: st.DrawFn,
    rows: int | None = None,
    columns: int | None = None,
    max_columns: int = 100,
    equal_counts: bool = False,
) -> PlaneMatrix:
    """Any matrix that keeps the contract, mixed plane counts and extreme sums included."""
    rows = draw(st.integers(1, 9)) if rows is None else rows
    columns = draw(st.integers(1, max_columns)) if columns is None else columns
    rng = np.random.default_rng(draw(seeds))
    if equal_counts:
        counts = np.full(rows, draw(st.integers(1, 8)))
    else:
        counts = np.array(draw(st.lists(st.integers(1, 8), min_size=rows, max_size=rows)))
    offset, steps = random_levels(rng, counts)
    codes = rng.integers(0, 2 ** counts[:, None], (rows, columns))
    scale = draw(st.lists(normal_scales, min_size=rows, max_size=rows))
    return PlaneMatrix(
        offset, steps, codes.astype(np.uint8), counts.astype(np.int64), np.array(scale, np.float32)
    )


def random_levels(
    rng: np.random.Generator, counts: NDArray[np.integer]
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Offset ``[O]`` and steps ``[O, P]``; a third of the rows reach from -127 to 127."""
    planes = int(counts.max())
    steps = rng.integers(0, 128, (len(counts), planes)) * (np.arange(planes) < counts[:, None])
    offset = np.zeros(len(counts), np.int64)
    for row in range(len(counts)):
        while steps[row].sum() > 2 * LIMIT:
            steps[row] = steps[row] * 3 // 4
        if rng.random() < 1 / 3:
            missing = 2 * LIMIT - steps[row].sum()
            steps[row, 0] += min(missing, LIMIT - steps[row, 0])
            offset[row] = -LIMIT
        else:
            offset[row] = rng.integers(-LIMIT, LIMIT - steps[row].sum() + 1)
    return offset.astype(np.int8), steps.astype(np.int8)


@st.composite
def snapped_levels(draw: st.DrawFn, rows: int, planes: int) -> SnappedLevels:
    """Integer levels at a power-of-two scale, at which borders are exact."""
    rng = np.random.default_rng(draw(seeds))
    offset, steps = random_levels(rng, np.full(rows, planes))
    scale = 2.0 ** rng.integers(-12, 4, rows)
    return SnappedLevels(scale, offset, steps)


@st.composite
def geometries(draw: st.DrawFn) -> ConvGeometry:
    """Kernels to 4, strides and dilations to 3, pads to 3, groups to 3."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return ConvGeometry(
        draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        draw(pair),
        draw(st.tuples(*[st.integers(0, 3)] * 4)),
        draw(pair),
        draw(st.sampled_from([1, 1, 2, 3])),
    )


@st.composite
def layers(draw: st.DrawFn, conv: bool | None = None) -> PackedLayer:
    """Any layer that passes ``check_layer``; scaled outputs may overflow."""
    rng = np.random.default_rng(draw(seeds))
    act_bits = draw(st.integers(2, 8))
    table = draw(st.integers(1, 3))
    if draw(st.booleans()) if conv is None else conv:
        geometry = draw(geometries())
        channels = geometry.group * draw(st.integers(1, 4))
        rows = geometry.group * draw(st.integers(1, 3))
        taps = geometry.kernel_shape[0] * geometry.kernel_shape[1]
        columns = taps * channels // geometry.group
    else:
        geometry, rows = None, draw(st.integers(1, 6))
        columns = channels = draw(st.integers(1, 80))
    grouped = geometry is not None and geometry.group > 1
    matrix = draw(plane_matrices(rows=rows, columns=columns, equal_counts=grouped))
    top_shift = draw(st.integers(0, 8 - act_bits))
    plain_factor = draw(st.booleans())
    return PackedLayer(
        weight=pack(matrix),
        bias=rng.standard_normal(rows).astype(np.float32),
        act_scale=rng.uniform(0.01, 1.5, table).astype(np.float32),
        act_zero_point=rng.integers(0, 2**act_bits, table).astype(np.int32),
        act_bits=act_bits,
        input_factor=(np.ones(channels) if plain_factor else rng.uniform(0.1, 3, channels)).astype(
            np.float32
        ),
        input_shift=rng.integers(0, top_shift + 1, channels).astype(np.int8),
        conv=geometry,
    )


def inputs_for(layer: PackedLayer, seed: int) -> NDArray[np.float32]:
    """An input of suitable shape, many of whose values are clamped."""
    rng = np.random.default_rng(seed)
    if layer.conv is None:
        shape: tuple[int, ...] = (*rng.integers(1, 4, rng.integers(1, 3)), layer.input_channels)
    else:
        (kh, kw), (dh, dw) = layer.conv.kernel_shape, layer.conv.dilations
        top, left, bottom, right = layer.conv.pads
        height = max(1, dh * (kh - 1) + 1 - top - bottom) + rng.integers(0, 4)
        width = max(1, dw * (kw - 1) + 1 - left - right) + rng.integers(0, 4)
        shape = (rng.integers(1, 3), layer.input_channels, height, width)
    reach = float(layer.act_scale.max()) * 2**layer.act_bits
    return (rng.standard_normal(shape) * reach / 2).astype(np.float32)
