"""What mpq-build reads before TensorRT does; the catalogue of attacks holds what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fixtures
import numpy as np
import pytest

from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError
from mpq_export.export import export_bundle
from mpq_export.lowering import engine_graphs
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.lowering.targets import lowered_files, read_lowered
from mpq_export.runtimes.tensorrt.engine_source import read_source
from mpq_export.runtimes.tensorrt.shapes import Range


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_a_lowered_model_is_described(lowered_folder: Path, target: Target) -> None:
    source = read_source(read_bundle(lowered_folder), target, "batch:1..2..8")
    assert source.model == lowered_folder / "onnx" / target.value / "model.onnx"
    assert source.files == lowered_files(lowered_folder, target)
    assert source.ranges == {"batch": Range(1, 2, 8)}
    assert source.profile == {
        "sample": tuple((size, 2, 8, 8) for size in (1, 2, 8)),
        "class_labels": ((1,), (2,), (8,)),
    }
    values = read_lowered(lowered_folder, target).values()
    assert source.constants == sum(value.nbytes for value in values.values())
    assert source.constants < source.size == source.model.stat().st_size


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_other_layers_or_features_are_refused(cached_folder: Path, target: Target) -> None:
    bundle = read_bundle(cached_folder)
    assert read_source(bundle, target).constants > 0
    assert bundle.features is not None
    codes = bundle.features.codes + np.int8(1)
    other = replace(bundle, features=replace(bundle.features, codes=codes))
    with pytest.raises(BundleError, match=r"features\.codes is not the bundle's.*--target trt"):
        read_source(other, target)
    name, layer = next(iter(bundle.layers.items()))
    other = replace(bundle, layers={**bundle.layers, name: replace(layer, bias=layer.bias + 1)})
    with pytest.raises(BundleError, match=rf"{name}\.bias is not the bundle's"):
        read_source(other, target)


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_exporting_refuses_what_building_would(
    lowered_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    """Where it can be mended, and not on a board."""
    bundle, out = read_bundle(lowered_folder), tmp_path / "out"
    monkeypatch.setattr(engine_graphs, "_MOST_ELEMENTS", 100)
    with pytest.raises(BundleError, match=r"No engine could be built.*would have [0-9]+ elements"):
        export_bundle(bundle, (target,), out, fixtures.SilentProgress())
    assert not out.exists()
