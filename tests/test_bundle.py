"""The bundle on disk: what is written comes back, from whole and unchanged files alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import fixtures
import numpy as np
import pytest
from safetensors.numpy import load
from signed_changes import (
    DW,
    FC,
    OUT,
    change_tensors,
)

from mpq_export.bundle import (
    CORE_FILES,
    WEIGHTS,
    Bundle,
    read_bundle,
    write_bundle,
)
from mpq_export.bundle_config import LayerConfig
from mpq_export.core.integer_reference import PackedLayer, check_layer
from mpq_export.errors import BundleError
from mpq_export.files import MANIFEST


def assert_same_layer(one: PackedLayer, other: PackedLayer) -> None:
    for left, right in ((one, other), (one.weight, other.weight)):
        for field in fields(left):
            value, expected = getattr(left, field.name), getattr(right, field.name)
            if isinstance(expected, np.ndarray):
                assert value.dtype == expected.dtype
                assert np.array_equal(value, expected), field.name
            elif field.name != "weight":
                assert value == expected, field.name


def test_handmade_bundle_round_trips(handmade: Bundle) -> None:
    found = read_bundle(str(handmade.path))
    assert found.path == handmade.path
    assert found.model_config == handmade.model_config
    assert found.scheduler_config == handmade.scheduler_config
    assert found.quantization == handmade.quantization
    assert list(found.layers) == list(handmade.layers)
    for name, layer in handmade.layers.items():
        assert_same_layer(found.layers[name], layer)
    assert found.parameters.keys() == handmade.parameters.keys()
    for name, value in handmade.parameters.items():
        assert found.parameters[name].dtype == np.float32
        assert found.parameters[name].shape == value.shape
        assert found.parameters[name].tobytes() == value.tobytes()
    assert found.timesteps.dtype == np.int32
    assert np.array_equal(found.timesteps, handmade.timesteps)
    assert found.output_bias.dtype == np.float32
    assert np.array_equal(found.output_bias, handmade.output_bias)
    for name, value in vars(handmade.features).items():
        assert getattr(found.features, name).dtype == value.dtype
        assert np.array_equal(getattr(found.features, name), value)
    assert str(found.bits) == "w2a4"


def test_quantised_model_round_trips(bundle_folder: Path) -> None:
    found = read_bundle(bundle_folder)
    assert len(found.layers) == 51
    assert found.layers.keys() == found.quantization.layers.keys()
    planes = {len(layer.weight.plane_rows) for layer in found.layers.values()}
    assert {3, 8} <= planes <= {3, 4, 8}, "random weights gain little from mixing rows"
    assert found.timesteps.tolist() == [999, 666, 332]
    for layer in found.layers.values():
        check_layer(layer)
    parameters = sum(value.size for value in found.parameters.values())
    weights = sum(v.weight.rows * v.weight.columns for v in found.layers.values())
    biases = sum(v.weight.rows for v in found.layers.values())
    assert found.quantization.full_precision_parameters == parameters + weights + biases


def test_writing_a_read_bundle_again_gives_the_same_files(
    bundle_folder: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path, read_bundle(bundle_folder))
    for name in (*CORE_FILES, MANIFEST):
        assert (tmp_path / name).read_bytes() == (bundle_folder / name).read_bytes()


def test_default_factors_and_shifts_are_not_stored(handmade: Bundle) -> None:
    stored = load((handmade.path / WEIGHTS).read_bytes())
    optional = {name for name in stored if name.endswith(("input_factor", "input_shift"))}
    assert optional == {f"{FC}.input_factor", f"{FC}.input_shift"}


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path: Path) -> None:
    bundle = fixtures.handmade_bundle(tmp_path)
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    bundle.parameters["transposed"] = transposed
    write_bundle(tmp_path, bundle)
    assert np.array_equal(read_bundle(tmp_path).parameters["transposed"], transposed)


def test_other_files_in_the_folder_do_not_matter(handmade_folder: Path) -> None:
    (handmade_folder / "report.json").write_text("{")
    (handmade_folder / "onnx").symlink_to("nowhere")
    assert read_bundle(handmade_folder).layers


def test_a_bundle_may_be_reached_through_a_link_and_by_a_relative_path(
    handmade_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handmade_folder.parent / "link").symlink_to(handmade_folder)
    assert read_bundle(handmade_folder.parent / "link").layers
    monkeypatch.chdir(handmade_folder)
    assert read_bundle(".").layers


@pytest.mark.parametrize("layer", [FC, DW, OUT])
def test_layer_config_keeps_the_geometry(handmade: Bundle, layer: str) -> None:
    packed = handmade.layers[layer]
    assert LayerConfig.of(packed).geometry() == packed.conv


def test_a_missing_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path / "file")


@pytest.mark.parametrize("name", CORE_FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_flipped_bit_is_refused(handmade_folder: Path, name: str, place: float) -> None:
    data = bytearray((handmade_folder / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (handmade_folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="not the one that was written"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", CORE_FILES)
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\n", lambda _: b""]
)
def test_another_length_is_refused(handmade_folder: Path, name: str, change: Callable) -> None:
    (handmade_folder / name).write_bytes(change((handmade_folder / name).read_bytes()))
    with pytest.raises(BundleError, match="not the one that was written"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_missing_file_is_refused(handmade_folder: Path, name: str) -> None:
    (handmade_folder / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_folder_in_place_of_a_file_is_refused(handmade_folder: Path, name: str) -> None:
    (handmade_folder / name).unlink()
    (handmade_folder / name).mkdir()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_pipe_in_place_of_a_file_is_refused(handmade_folder: Path, name: str) -> None:
    (handmade_folder / name).unlink()
    os.mkfifo(handmade_folder / name)
    with pytest.raises(BundleError, match="missing"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_linked_file_is_refused(handmade_folder: Path, name: str) -> None:
    outside = handmade_folder.parent / "outside"
    shutil.move(handmade_folder / name, outside)
    (handmade_folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(handmade_folder)


def test_a_linked_scheduler_folder_is_refused(handmade_folder: Path) -> None:
    shutil.move(handmade_folder / "scheduler", handmade_folder.parent / "outside")
    (handmade_folder / "scheduler").symlink_to(handmade_folder.parent / "outside")
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(handmade_folder)


def bundle_with_parts(folder: Path, module: str) -> None:
    """The handmade bundle and a module of two parts more, written to a folder."""
    made = fixtures.handmade_bundle(folder)
    parts = {f"{module}.{i}": fixtures.random_layer([2, 2], 3, 4, seed=i) for i in range(2)}
    configs = {name: LayerConfig.of(layer) for name, layer in parts.items()}
    quantization = made.quantization.model_copy(
        update={"layers": made.quantization.layers | configs}
    )
    own = [np.array(channels, np.int32) for channels in ([0, 2, 5], [1, 3, 4])]
    folder.mkdir()
    write_bundle(
        folder,
        replace(
            made,
            quantization=quantization,
            layers=made.layers | parts,
            channels=dict(zip(parts, own, strict=True)),
        ),
    )


def test_parts_come_back(tmp_path: Path) -> None:
    bundle_with_parts(tmp_path / "b", "both")
    assert read_bundle(tmp_path / "b").channels["both.1"].tolist() == [1, 3, 4]


def test_a_removed_layer_has_no_parts(tmp_path: Path) -> None:
    bundle_with_parts(tmp_path / "b", "time.embed")
    with pytest.raises(BundleError, match=r"time\.embed was removed and has parts"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    "channels",
    [
        np.array([0, 2], np.int32),
        np.array([0, 2, 4], np.int32),
        np.array([0, 5, 2], np.int32),
        np.array([-6, 2, 5], np.int32),
        np.array([0, 2, 2**31 - 1], np.int32),
        np.array([[0, 2, 5]], np.int32),
        np.array([0, 2, 5], np.int64),
        np.array([0, 2, 5], np.float32),
        np.zeros(0, np.int32),
    ],
    ids=str,
)
def test_channels_that_share_nothing_out_are_refused(tmp_path: Path, channels: np.ndarray) -> None:
    bundle_with_parts(tmp_path / "b", "both")
    change_tensors(tmp_path / "b", lambda tensors: tensors.update({"both.0.channels": channels}))
    with pytest.raises(BundleError, match="parts of a layer"):
        read_bundle(tmp_path / "b")


def test_channels_of_one_part_alone_are_refused(tmp_path: Path) -> None:
    bundle_with_parts(tmp_path / "b", "both")
    change_tensors(tmp_path / "b", lambda tensors: tensors.pop("both.0.channels"))
    with pytest.raises(BundleError, match="parts of a layer"):
        read_bundle(tmp_path / "b")
