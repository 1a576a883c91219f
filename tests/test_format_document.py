"""``docs/format.md`` says what the code does: its names are all there, its example comes out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mpq_export.bundle import (
    CORE_FILES,
    LAYER_TENSORS,
    OPTIONAL_LAYER_TENSORS,
    OUTPUT_BIAS,
    TIMESTEPS,
)
from mpq_export.bundle_config import FORMAT_VERSION, LayerConfig, QuantizationConfig
from mpq_export.bundle_features import FEATURE_TENSORS, TemporalConfig
from mpq_export.core.integer_reference import PackedLayer, check_layer, run_layer
from mpq_export.core.planes import MAX_COLUMNS, PlaneMatrix, pack
from mpq_export.files import MANIFEST
from mpq_export.lowering import nodes
from mpq_export.lowering.names import Target

TEXT = (Path(__file__).parents[1] / "docs" / "format.md").read_text("utf-8")
_ATTRIBUTES = nodes._COMMON_ATTRIBUTES | nodes._CONV_ATTRIBUTES


@pytest.fixture(scope="module")
def example() -> PackedLayer:
    """The layer of the worked example."""
    codes = np.zeros((3, 34), np.uint8)
    codes[0, [0, 31, 33]] = 1
    codes[1] = np.arange(34) % 4
    codes[2] = 1
    matrix = PlaneMatrix(
        offset=np.array([-1, -2, 0], np.int8),
        steps=np.array([[2, 0], [1, 2], [5, 0]], np.int8),
        codes=codes,
        plane_count=np.array([1, 2, 1]),
        scale=np.array([0.25, 0.5, 0.125], np.float32),
    )
    layer = PackedLayer(
        weight=pack(matrix),
        bias=np.full(3, 0.5, np.float32),
        act_scale=np.array([0.125], np.float32),
        act_zero_point=np.array([3], np.int32),
        act_bits=4,
        input_factor=np.ones(34, np.float32),
        input_shift=np.zeros(34, np.int8),
    )
    check_layer(layer)
    return layer


def test_the_example_is_packed_as_written(example: PackedLayer) -> None:
    rows = re.findall(r"\| `0x([0-9A-F]{8})` \| `0x([0-9A-F]{8})` \| `([0-9a-f ]+)` \|", TEXT)
    stored = np.array([[int(word, 16) for word in row[:2]] for row in rows], np.uint32)
    assert np.array_equal(stored.view(np.int32), example.weight.planes)
    assert bytes.fromhex("".join(row[2] for row in rows)) == example.weight.planes.tobytes()
    for name in ("plane_rows", "row_order", "steps", "scale"):
        assert f"`{name} = {getattr(example.weight, name).tolist()}`" in TEXT


def test_the_example_computes_what_is_written(example: PackedLayer) -> None:
    trace = run_layer(example, np.full(34, 0.4, np.float32), 0)
    assert set(trace.codes.tolist()) == {6}
    assert f"acc = {str(trace.accumulator.tolist())[1:-1]};" in TEXT
    assert f"y = {str(trace.output.tolist())[1:-1]}." in TEXT


@pytest.mark.parametrize(
    "name",
    [
        *CORE_FILES, MANIFEST, *LAYER_TENSORS, *OPTIONAL_LAYER_TENSORS, TIMESTEPS, OUTPUT_BIAS,
        *FEATURE_TENSORS.values(), *TemporalConfig.model_fields, *QuantizationConfig.model_fields,
        *LayerConfig.model_fields, *nodes.INPUTS, *_ATTRIBUTES,
        nodes.LINEAR, nodes.CONV, nodes.DOMAIN, nodes.CANONICAL,
    ],
)  # fmt: skip
def test_every_name_is_explained(name: str) -> None:
    assert re.search(rf'(^|[`"<>. ]){re.escape(name)}([`". ]|$)', TEXT, re.MULTILINE)


def test_numbers_are_those_of_the_code() -> None:
    assert f"format, version {FORMAT_VERSION}" in TEXT
    assert f"1 to {MAX_COLUMNS}" in TEXT
    assert f"`mpq`, version {nodes.VERSION}, with opset {nodes.OPSET}" in TEXT
    for target in Target:
        assert f"`onnx/{target.value}/model.onnx`" in TEXT
