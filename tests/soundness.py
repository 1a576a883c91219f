"""What must hold of anything a reader accepted."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from mpq_export.bundle import Bundle
from mpq_export.core.feature_table import check_feature_table
from mpq_export.core.integer_reference import PackedLayer, check_layer, run_layer
from mpq_export.core.planes import PackedMatrix, pack, unpack

_LARGEST_INPUT = 1 << 22


def assert_sound_bundle(bundle: Bundle) -> None:
    """Every layer is sound, every table has the same length."""
    for layer in bundle.layers.values():
        assert_sound_layer(layer)
        assert len(layer.act_scale) == len(bundle.timesteps) == len(bundle.output_bias)
    if bundle.features is not None:
        check_feature_table(bundle.features)
        temporal = bundle.quantization.temporal
        assert temporal is not None
        assert len(bundle.features.codes) == len(bundle.timesteps)
        assert bundle.features.codes.shape[2] == sum(temporal.widths().values())
        assert np.isfinite(bundle.features.values(0)).all()


def assert_sound_layer(layer: PackedLayer) -> None:
    """It keeps the contract, packs to the identical bytes, and runs at both ends of its table."""
    check_layer(layer)
    assert_sound_matrix(layer.weight)
    x = _smallest_input(layer)
    if x is not None:
        for step in (0, len(layer.act_scale) - 1):
            run_layer(layer, x, step)


def assert_sound_matrix(matrix: PackedMatrix) -> None:
    """It unpacks and packs to the identical bytes."""
    again = pack(unpack(matrix))
    for field in fields(matrix):
        one, other = getattr(matrix, field.name), getattr(again, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            assert one.tobytes() == other.tobytes(), field.name
        else:
            assert one == other, field.name


def _smallest_input(layer: PackedLayer) -> np.ndarray | None:
    """Zeros of the smallest shape with one output; None if a geometry makes even that huge."""
    if layer.conv is None:
        return np.zeros((1, layer.input_channels), np.float32)
    top, left, bottom, right = layer.conv.pads
    (kh, kw), (dh, dw) = layer.conv.kernel_shape, layer.conv.dilations
    height = max(1, dh * (kh - 1) + 1 - top - bottom)
    width = max(1, dw * (kw - 1) + 1 - left - right)
    padded = (height + top + bottom) * (width + left + right) * layer.input_channels
    if padded > _LARGEST_INPUT:
        return None
    return np.zeros((1, layer.input_channels, height, width), np.float32)
