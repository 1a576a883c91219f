"""Packed layers of random weights by rounding alone, fast: speed does not depend on values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.integer_reference import ConvGeometry, PackedLayer, input_channels
from ...core.planes import PlaneMatrix, pack

_SIGMAS = 4.0
"""How much of inputs of variance 1 the activation codes cover, on either side."""


def mixed_planes(rows: int, mean: int) -> NDArray[np.int64]:
    """Plane counts int64 ``[O]``: a quarter of the rows one more, a quarter one less."""
    counts = np.full(rows, mean, np.int64)
    counts[: rows // 4] += 1
    counts[rows - rows // 4 :] -= 1
    return counts


def rounded_layer(
    weights: NDArray[np.float32],
    planes: NDArray[np.int64],
    act_bits: int,
    conv: ConvGeometry | None = None,
    bias: NDArray[np.float32] | None = None,
) -> PackedLayer:
    """A layer of one activation step for inputs of variance 1.

    Args:
        weights: float32 ``[O, K]``, columns as the contract orders them.
        planes: int64 ``[O]``, 2 to 8; 8 is symmetric, fewer span the row's range.
        act_bits: 2 to 8.
        conv: the geometry of a convolution.
        bias: float32 ``[O]``; zeros when left out.
    """
    rows, columns = weights.shape
    channels = input_channels(columns, conv)
    return PackedLayer(
        weight=pack(_rounded(weights, planes)),
        bias=np.zeros(rows, np.float32) if bias is None else bias,
        act_scale=np.array([2 * _SIGMAS / 2**act_bits], np.float32),
        act_zero_point=np.array([2 ** (act_bits - 1)], np.int32),
        act_bits=act_bits,
        input_factor=np.ones(channels, np.float32),
        input_shift=np.zeros(channels, np.int8),
        conv=conv,
    )


def _rounded(weights: NDArray[np.float32], planes: NDArray[np.int64]) -> PlaneMatrix:
    low = np.minimum(weights.min(axis=1), 0)
    high = np.maximum(weights.max(axis=1), 0)
    symmetric = planes == 8
    most = np.where(symmetric, 254, 2.0**planes - 1)
    span = np.where(symmetric, 2 * np.maximum(high, -low), high - low)
    scale = np.maximum(span / most, np.finfo(np.float32).tiny).astype(np.float32)
    zero = np.where(symmetric, 127, np.rint(-low / scale)).astype(np.float32)
    codes = np.rint(weights / scale[:, None]) + zero[:, None]
    codes = np.clip(codes, 0, most[:, None].astype(np.float32)).astype(np.uint8)
    # Steps 1, 2, ... 64 and 127 reach 254: from 128 on the last plane is set.
    codes[symmetric] += codes[symmetric] >= 128
    place = np.arange(planes.max())
    steps = np.where(place < planes[:, None], np.minimum(1 << place, 127), 0)
    return PlaneMatrix(
        offset=(-zero).astype(np.int8),
        steps=steps.astype(np.int8),
        codes=codes,
        plane_count=planes,
        scale=scale,
    )
