"""The bundle on disk: what is written comes back, and nothing but what is canonical is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import fixtures
import numpy as np
import pytest
from safetensors.numpy import load, save

from mpq_export.bundle import (
    CONFIG,
    CORE_FILES,
    SCHEDULER,
    WEIGHTS,
    Bundle,
    LayerConfig,
    read_bundle,
    write_bundle,
)
from mpq_export.core.integer_reference import PackedLayer, check_layer
from mpq_export.core.planes import MAX_COLUMNS
from mpq_export.errors import BundleError
from mpq_export.files import MANIFEST, write_json, write_manifest

FC, DW, OUT = "blocks.0.fc", "blocks.0.dw", "out"
Tensors = dict[str, np.ndarray]
Json = dict[str, Any]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The handmade bundle, written to its folder."""
    made = fixtures.handmade_bundle(tmp_path / "bundle")
    made.path.mkdir()
    write_bundle(made.path, made)
    return made


@pytest.fixture
def folder(bundle: Bundle) -> Path:
    """Its folder."""
    return bundle.path


def change_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    """Edit the weights and sign them again, so that only the format's checks can refuse them."""
    tensors = {name: value.copy() for name, value in load((folder / WEIGHTS).read_bytes()).items()}
    edit(tensors)
    (folder / WEIGHTS).write_bytes(save(tensors))
    write_manifest(folder, CORE_FILES)


def change_json(folder: Path, name: str, edit: Callable[[Json], None]) -> None:
    """Edit a JSON file and sign it again."""
    data = json.loads((folder / name).read_text("utf-8"))
    edit(data)
    write_json(folder / name, data)
    write_manifest(folder, CORE_FILES)


def replace_bytes(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and sign it again."""
    (folder / name).write_bytes(data)
    write_manifest(folder, CORE_FILES)


def assert_same_layer(one: PackedLayer, other: PackedLayer) -> None:
    for left, right in ((one, other), (one.weight, other.weight)):
        for field in fields(left):
            value, expected = getattr(left, field.name), getattr(right, field.name)
            if isinstance(expected, np.ndarray):
                assert value.dtype == expected.dtype
                assert np.array_equal(value, expected), field.name
            elif field.name != "weight":
                assert value == expected, field.name


# --- what is written comes back ---------------------------------------------------------------


def test_handmade_bundle_round_trips(bundle: Bundle) -> None:
    found = read_bundle(str(bundle.path))
    assert found.path == bundle.path
    assert found.model_config == bundle.model_config
    assert found.scheduler_config == bundle.scheduler_config
    assert found.quantization == bundle.quantization
    assert list(found.layers) == list(bundle.layers)
    for name, layer in bundle.layers.items():
        assert_same_layer(found.layers[name], layer)
    assert found.parameters.keys() == bundle.parameters.keys()
    for name, value in bundle.parameters.items():
        assert found.parameters[name].dtype == np.float32
        assert found.parameters[name].shape == value.shape
        assert found.parameters[name].tobytes() == value.tobytes()
    assert found.timesteps.dtype == np.int32
    assert np.array_equal(found.timesteps, bundle.timesteps)
    assert found.output_bias.dtype == np.float32
    assert np.array_equal(found.output_bias, bundle.output_bias)
    for name, value in vars(bundle.features).items():
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


def test_default_factors_and_shifts_are_not_stored(bundle: Bundle) -> None:
    stored = load((bundle.path / WEIGHTS).read_bytes())
    optional = {name for name in stored if name.endswith(("input_factor", "input_shift"))}
    assert optional == {f"{FC}.input_factor", f"{FC}.input_shift"}


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path: Path) -> None:
    bundle = fixtures.handmade_bundle(tmp_path)
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    bundle.parameters["transposed"] = transposed
    write_bundle(tmp_path, bundle)
    assert np.array_equal(read_bundle(tmp_path).parameters["transposed"], transposed)


def test_other_files_in_the_folder_do_not_matter(folder: Path) -> None:
    (folder / "report.json").write_text("{")
    (folder / "onnx").symlink_to("nowhere")
    assert read_bundle(folder).layers


def test_a_bundle_may_be_reached_through_a_link_and_by_a_relative_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert read_bundle(folder.parent / "link").layers
    monkeypatch.chdir(folder)
    assert read_bundle(".").layers


@pytest.mark.parametrize("layer", [FC, DW, OUT])
def test_layer_config_keeps_the_geometry(bundle: Bundle, layer: str) -> None:
    packed = bundle.layers[layer]
    assert LayerConfig.of(packed).geometry() == packed.conv


# --- files: what does not match the manifest --------------------------------------------------


def test_a_missing_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path / "file")


@pytest.mark.parametrize("name", CORE_FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_flipped_bit_is_refused(folder: Path, name: str, place: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="not the one that was written"):
        read_bundle(folder)


@pytest.mark.parametrize("name", CORE_FILES)
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\n", lambda _: b""]
)
def test_another_length_is_refused(folder: Path, name: str, change: Callable) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(BundleError, match="not the one that was written"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_pipe_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match="missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [*CORE_FILES, MANIFEST])
def test_a_linked_file_is_refused(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(folder)


def test_a_linked_scheduler_folder_is_refused(folder: Path) -> None:
    shutil.move(folder / "scheduler", folder.parent / "outside")
    (folder / "scheduler").symlink_to(folder.parent / "outside")
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(folder)


def _entry(**change: Any) -> Callable[[Json], None]:
    return lambda data: data["files"][CONFIG].update(change)


MANIFEST_BREAKAGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "no files": (lambda d: d.pop("files"), "does not list"),
    "files are a list": (lambda d: d.update(files=list(d["files"])), "does not list"),
    "an entry is missing": (lambda d: d["files"].pop(CONFIG), "does not list"),
    "one more file": (lambda d: d["files"].update(extra=d["files"][CONFIG]), "does not list"),
    "a path outside": (
        lambda d: d["files"].update({"../config.json": d["files"].pop(CONFIG)}), "does not list",
    ),
    "an absolute path": (
        lambda d: d["files"].update({"/etc/passwd": d["files"].pop(CONFIG)}), "does not list",
    ),
    "an entry is a list": (lambda d: d["files"].update({CONFIG: []}), "malformed"),
    "no hash": (lambda d: d["files"][CONFIG].pop("sha256"), "malformed"),
    "hash is a number": (_entry(sha256=1), "malformed"),
    "no size": (lambda d: d["files"][CONFIG].pop("size"), "malformed"),
    "size is a text": (_entry(size="1"), "malformed"),
    "size is a fraction": (_entry(size=1.0), "malformed"),
    "another hash": (_entry(sha256="0" * 64), "not the one that was written"),
    "an empty hash": (_entry(sha256=""), "not the one that was written"),
    "another size": (_entry(size=5), "not the one that was written"),
    "a size below zero": (_entry(size=-1), "malformed|not the one that was written"),
    "more JSON than is read": (_entry(size=(64 << 20) + 1), "too large"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFEST_BREAKAGES)
def test_a_broken_manifest_is_refused(folder: Path, case: str) -> None:
    edit, message = MANIFEST_BREAKAGES[case]
    data = json.loads((folder / MANIFEST).read_text())
    edit(data)
    write_json(folder / MANIFEST, data)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize("size", [1 << 40, 1 << 50, 1 << 70])
def test_a_declared_size_costs_no_memory(folder: Path, size: int) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    data["files"][WEIGHTS]["size"] = size
    write_json(folder / MANIFEST, data)
    with pytest.raises(BundleError):
        read_bundle(folder)


# --- JSON -------------------------------------------------------------------------------------

BAD_JSON = {
    "empty": b"",
    "cut": b'{"quantization_config": {',
    "not an object": b"[]",
    "a duplicate key": b'{"a": 1, "a": 1}',
    "a duplicate key inside": b'{"a": {"b": 1, "b": 2}}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a":' + b"[" * 100_000,
    "an endless number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize("name", [CONFIG, SCHEDULER])
def test_bad_json_is_refused(folder: Path, name: str, case: str) -> None:
    replace_bytes(folder, name, BAD_JSON[case])
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object") as caught:
        read_bundle(folder)
    assert name in caught.value.where


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_manifest_of_bad_json_is_refused(folder: Path, case: str) -> None:
    (folder / MANIFEST).write_bytes(BAD_JSON[case])
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object"):
        read_bundle(folder)


# --- quantization_config ----------------------------------------------------------------------


def _config(**change: Any) -> Callable[[Json], None]:
    return lambda config: config["quantization_config"].update(change)


def _layer(name: str, **change: Any) -> Callable[[Json], None]:
    return lambda config: config["quantization_config"]["layers"][name].update(change)


def _without(name: str, key: str) -> Callable[[Json], Any]:
    return lambda config: config["quantization_config"]["layers"][name].pop(key)


def _renamed(name: str) -> Callable[[Json], None]:
    def edit(config: Json) -> None:
        layers = config["quantization_config"]["layers"]
        layers[name] = layers.pop(OUT)

    return edit


CONFIG_BREAKAGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "none": (lambda c: c.pop("quantization_config"), "not an mpq bundle"),
    "not an object": (lambda c: c.update(quantization_config=[]), "not an mpq bundle"),
    "another method": (_config(quant_method="gptq"), "not an mpq bundle"),
    "an older version": (_config(format_version=0), "format version 0"),
    "a newer version": (_config(format_version=3), "format version 3"),
    "a text as version": (_config(format_version="1"), "format version 1"),
    "no version": (lambda c: c["quantization_config"].pop("format_version"), "format version None"),
    "no bits": (lambda c: c["quantization_config"].pop("bits"), "bits: Field required"),
    "bits that are none": (_config(bits="w9a4"), "malformed"),
    "an unknown key": (_config(shards=2), "shards: Extra inputs"),
    "no layers": (lambda c: c["quantization_config"].pop("layers"), "layers: Field required"),
    "layers are a list": (_config(layers=[]), "layers: "),
    "a family that is a path": (_config(family="../evil"), "family: "),
    "a reason that is a number": (_config(kept={"norm": 1}), "kept.norm: "),
    "parameters below zero": (_config(full_precision_parameters=-1), "full_precision_parameters: "),
    "an unknown layer key": (_layer(FC, sparsity=2), f"layers.{FC}.sparsity: Extra inputs"),
    "an unknown kind": (_layer(FC, kind="conv3d"), "kind: "),
    "no kind": (_without(FC, "kind"), "kind: Field required"),
    "1 activation bit": (_layer(FC, act_bits=1), "act_bits: "),
    "9 activation bits": (_layer(FC, act_bits=9), "act_bits: "),
    "bits are a truth value": (_layer(FC, act_bits=True), "act_bits: "),
    "bits are a text": (_layer(FC, act_bits="4"), "act_bits: "),
    "K is 0": (_layer(FC, K=0), "K: "),
    "K could overflow": (_layer(FC, K=MAX_COLUMNS + 1), "K: "),
    "K is a fraction": (_layer(FC, K=40.0), "K: "),
    "a linear with geometry": (_layer(FC, group=1), "a linear none"),
    "a conv without strides": (_without(DW, "strides"), "a conv has"),
    "a conv without group": (_without(DW, "group"), "a conv has"),
    "a kernel of one number": (_layer(DW, kernel_shape=[3]), "kernel_shape: "),
    "three pads": (_layer(DW, pads=[1, 0, 2]), "pads: "),
    "a pad below zero": (_layer(DW, pads=[-1, 0, 2, 1]), "pads are"),
    "a stride of 0": (_layer(DW, strides=[0, 1]), "1 to 4096"),
    "a huge dilation": (_layer(DW, dilations=[1, 1 << 40]), "1 to 4096"),
    "group 0": (_layer(DW, group=0), "group: "),
    "group that does not divide": (_layer(DW, group=3), "breaks the format"),
    "a kernel that does not divide K": (_layer(DW, kernel_shape=[4, 2]), "kernel taps"),
    "a huge group": (_layer(DW, group=1 << 40), "malformed|breaks the format"),
    "an endless group": (_layer(DW, group=10**30), "malformed|breaks the format"),
    "another K": (_layer(FC, K=39), "breaks the format"),
    "another kind": (_layer(OUT, K=31), "breaks the format"),
    "a layer without tensors": (_renamed("blocks.0.other"), "planes is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG_BREAKAGES)
def test_a_broken_config_is_refused(folder: Path, case: str) -> None:
    edit, message = CONFIG_BREAKAGES[case]
    change_json(folder, CONFIG, edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    "name",
    ["", ".", "out.", ".out", "a..b", "a/b", "../out", "a b", "a-b", "ä", "out\n", "a" * 513],
)
def test_layer_names_are_module_paths(folder: Path, name: str) -> None:
    change_json(folder, CONFIG, _renamed(name))
    with pytest.raises(BundleError, match="not a module path"):
        read_bundle(folder)


# --- tensors ----------------------------------------------------------------------------------


def _put(name: str, place: Any, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name][place] = value

    return edit


def _cast(name: str, dtype: type) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensors[name].astype(dtype)})


def _set(name: str, value: np.ndarray) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value})


def _table(layer: str, steps: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update(
        {
            f"{layer}.act_scale": np.ones(steps, np.float32),
            f"{layer}.act_zero_point": np.ones(steps, np.int32),
        }
    )


def _swap_sorted_rows(tensors: Tensors) -> None:
    """The two rows of three planes change places everywhere: the same matrix, not canonical."""
    swapped = [1, 0, *range(2, 5)]
    for name in (f"{FC}.scale", f"{FC}.row_order"):
        tensors[name] = tensors[name][swapped]
    tensors[f"{FC}.steps"] = tensors[f"{FC}.steps"][:, swapped]
    planes = tensors[f"{FC}.planes"]
    for start in (0, 5, 8):
        planes[[start, start + 1]] = planes[[start + 1, start]]


TENSOR_BREAKAGES: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "no planes": (lambda t: t.pop(f"{FC}.planes"), "planes is missing"),
    "no bias": (lambda t: t.pop(f"{OUT}.bias"), "bias is missing"),
    "no act_scale": (lambda t: t.pop(f"{DW}.act_scale"), "act_scale is missing"),
    "planes of another type": (_cast(f"{FC}.planes", np.uint32), "planes is uint32"),
    "plane_rows of another type": (_cast(f"{FC}.plane_rows", np.int64), "plane_rows is int64"),
    "steps of another type": (_cast(f"{FC}.steps", np.int16), "steps is int16"),
    "scale of another type": (_cast(f"{FC}.scale", np.float64), "scale is float64"),
    "row_order of another type": (_cast(f"{FC}.row_order", np.float32), "row_order is float32"),
    "bias of another type": (_cast(f"{FC}.bias", np.float16), "bias is float16"),
    "act_scale of another type": (_cast(f"{FC}.act_scale", np.float16), "act_scale is float16"),
    "zero point of another type": (_cast(f"{FC}.act_zero_point", np.uint8), "act_zero_point is u"),
    "shift of another type": (_cast(f"{FC}.input_shift", np.int32), "input_shift is int32"),
    "factor of another type": (_cast(f"{FC}.input_factor", np.float64), "input_factor is float64"),
    "a plane row too many": (_set(f"{OUT}.planes", np.zeros((9, 1), np.int32)), "planes is int32"),
    "a word too many": (_set(f"{OUT}.planes", np.zeros((8, 2), np.int32)), "planes is int32"),
    "flat planes": (_set(f"{OUT}.planes", np.zeros(8, np.int32)), "planes is int32"),
    "a bias too long": (_set(f"{OUT}.bias", np.zeros(2, np.float32)), "bias is float32"),
    "a bias of two axes": (_set(f"{OUT}.bias", np.zeros((1, 1), np.float32)), "bias is float32"),
    "a bias that is one number": (_set(f"{OUT}.bias", np.array(0, np.float32)), "bias is float32"),
    "row_order is one number": (_set(f"{OUT}.row_order", np.array(0, np.int32)), "row_order"),
    "plane_rows is one number": (_set(f"{OUT}.plane_rows", np.array(1, np.int32)), "plane_rows"),
    "act_scale is one number": (_set(f"{OUT}.act_scale", np.array(1, np.float32)), "act_scale"),
    "no rows": (_set(f"{OUT}.row_order", np.zeros(0, np.int32)), "no rows"),
    "no plane": (_set(f"{OUT}.plane_rows", np.zeros(0, np.int32)), "0 planes"),
    "nine planes": (_set(f"{OUT}.plane_rows", np.ones(9, np.int32)), "9 planes"),
    "plane 0 not for all": (_put(f"{FC}.plane_rows", 0, 4), "plane 0 must be"),
    "plane counts increase": (_put(f"{FC}.plane_rows", 1, 1), "must not increase"),
    "a plane without rows": (_put(f"{FC}.plane_rows", 2, 0), "must not increase"),
    "plane counts below zero": (_put(f"{FC}.plane_rows", 2, -2), "must not increase"),
    "a plane row missing": (_put(f"{FC}.plane_rows", 2, 1), "planes is int32"),
    "rows not in order": (_swap_sorted_rows, "not in original order"),
    "a row twice": (_put(f"{FC}.row_order", 0, 0), "no permutation"),
    "a row outside": (_put(f"{FC}.row_order", 0, 5), "no permutation"),
    "a row below zero": (_put(f"{FC}.row_order", 0, -1), "no permutation"),
    "a padding bit": (_put(f"{FC}.planes", (3, 1), 1 << 8), "padding bit"),
    "the last padding bit": (_put(f"{FC}.planes", (9, 1), -(2**31)), "padding bit"),
    "an offset of -128": (_put(f"{FC}.steps", (0, 2), -128), "an offset is below"),
    "a step below zero": (_put(f"{FC}.steps", (1, 4), -1), "a step is negative"),
    "a step of no plane": (_put(f"{FC}.steps", (3, 4), 1), "beyond the row's plane count"),
    "a level above 127": (_put(f"{OUT}.steps", (slice(0, 3), 0), 127), "can exceed 127"),
    "scale 0": (_put(f"{FC}.scale", 1, 0), "a scale is not"),
    "scale below 0": (_put(f"{FC}.scale", 1, -1), "a scale is not"),
    "a denormal scale": (_put(f"{FC}.scale", 1, 1e-39), "a scale is not"),
    "an infinite scale": (_put(f"{FC}.scale", 1, np.inf), "a scale is not"),
    "scale NaN": (_put(f"{FC}.scale", 1, np.nan), "a scale is not"),
    "bias NaN": (_put(f"{FC}.bias", 1, np.nan), "bias has a value"),
    "an infinite bias": (_put(f"{FC}.bias", 1, -np.inf), "bias has a value"),
    "act_scale 0": (_put(f"{DW}.act_scale", 2, 0), "act_scale has a value"),
    "act_scale NaN": (_put(f"{DW}.act_scale", 2, np.nan), "act_scale has a value"),
    "a denormal act_scale": (_put(f"{DW}.act_scale", 2, 1e-39), "act_scale has a value"),
    "a zero point below 0": (_put(f"{DW}.act_zero_point", 0, -1), "outside the activation codes"),
    "a zero point too large": (_put(f"{DW}.act_zero_point", 0, 4), "outside the activation codes"),
    "a factor of 0": (_put(f"{FC}.input_factor", 0, 0), "input_factor has a value"),
    "an infinite factor": (_put(f"{FC}.input_factor", 0, np.inf), "input_factor has a value"),
    "a shift below 0": (_put(f"{FC}.input_shift", 0, -1), "an input shift"),
    "a shift too large": (_put(f"{FC}.input_shift", 0, 5), "an input shift"),
    "a shift of 127": (_put(f"{FC}.input_shift", 0, 127), "an input shift"),
    "a factor too few": (_set(f"{FC}.input_factor", np.full(39, 2, np.float32)), "input_factor is"),
    "a default factor": (_set(f"{OUT}.input_factor", np.ones(32, np.float32)), "is the default"),
    "a default shift": (_set(f"{OUT}.input_shift", np.zeros(32, np.int8)), "is the default"),
    "an empty factor": (_set(f"{OUT}.input_factor", np.ones(0, np.float32)), "is the default"),
    "a step too few": (_set(f"{OUT}.act_scale", np.ones(2, np.float32)), "act_zero_point is int32"),
    "no steps": (
        _table(OUT, 0),
        "activation table is empty",
    ),
    "fewer steps than the model": (
        _table(OUT, 2),
        "table of 2 steps, the model one of 3",
    ),
    "no timesteps": (lambda t: t.pop("mpq.timesteps"), "table of timesteps"),
    "timesteps of another type": (_cast("mpq.timesteps", np.int64), "table of timesteps"),
    "a bare timestep": (_set("mpq.timesteps", np.array(0, np.int32)), "table of timesteps"),
    "empty timesteps": (_set("mpq.timesteps", np.zeros(0, np.int32)), "table of timesteps"),
    "no output biases": (lambda t: t.pop("mpq.output_bias"), "table of output biases"),
    "an output bias too few": (
        _set("mpq.output_bias", np.zeros(2, np.float32)), "table of output biases"
    ),
    "wide output biases": (_cast("mpq.output_bias", np.float64), "table of output biases"),
    "an output bias NaN": (_put("mpq.output_bias", 0, np.nan), "output bias is not finite"),
    "a parameter NaN": (_put("norm.weight", 0, np.nan), "norm.weight is float32 or has"),
    "an infinite parameter": (_put("norm.weight", 0, np.inf), "norm.weight is float32 or has"),
    "a parameter of another type": (_cast("norm.weight", np.float16), "norm.weight is float16"),
    "an integer parameter": (_cast("norm.count", np.int64), "norm.count is int64"),
    "a tensor of no layer": (_set(f"{OUT}.extra", np.zeros(1, np.float32)), f"{OUT}.extra"),
    "a weight with planes": (_set(f"{OUT}.weight", np.zeros(32, np.float32)), f"{OUT}.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSOR_BREAKAGES)
def test_broken_tensors_are_refused(folder: Path, case: str) -> None:
    edit, message = TENSOR_BREAKAGES[case]
    change_tensors(folder, edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_rows_of_a_grouped_convolution_have_equal_planes(folder: Path) -> None:
    def fewer_planes(tensors: Tensors) -> None:
        tensors[f"{DW}.plane_rows"][1] = 3
        tensors[f"{DW}.planes"] = tensors[f"{DW}.planes"][:7]
        tensors[f"{DW}.steps"][2, 3] = 0

    change_tensors(folder, fewer_planes)
    with pytest.raises(BundleError, match="equal plane counts"):
        read_bundle(folder)


def test_what_the_breakages_start_from_is_read(folder: Path) -> None:
    change_tensors(folder, lambda _tensors: None)
    for name in (CONFIG, SCHEDULER):
        change_json(folder, name, lambda _data: None)
    assert read_bundle(folder).layers.keys() == {FC, DW, OUT}


def _one_tensor(dtype: str, shape: list[int], data: bytes) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"a": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


WEIGHT_FILES = {
    "empty": b"",
    "short": b"\0\0\0",
    "a header without end": b"\xff" * 8,
    "a huge header": (1 << 40).to_bytes(8, "little") + b"{}",
    "not JSON": b"\x02\0\0\0\0\0\0\0{]",
    "a pickle": b"\x80\x04K\x01.",
    "a type that does not exist": _one_tensor("F7", [1], b"\0"),
    "a type that is not ours": _one_tensor("BF16", [1], b"\0\0"),
    "a shape larger than its data": _one_tensor("F32", [1 << 40], b"\0\0\0\0"),
    "a huge empty shape": _one_tensor("F32", [0, 1 << 62], b""),
}


@pytest.mark.parametrize("case", WEIGHT_FILES)
def test_weights_that_are_no_safetensors_are_refused(folder: Path, case: str) -> None:
    replace_bytes(folder, WEIGHTS, WEIGHT_FILES[case])
    with pytest.raises(BundleError, match="weights cannot be read"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_damage_that_was_signed_is_read_or_refused_and_nothing_else(
    folder: Path, name: str
) -> None:
    rng = np.random.default_rng(0)
    original = (folder / name).read_bytes()
    # The header of the weights is where damage is more than another value.
    end = len(original) if name == CONFIG else 8 + int.from_bytes(original[:8], "little")
    refused = 0
    for place, value in zip(rng.integers(0, end, 400), rng.integers(0, 256, 400), strict=True):
        data = bytearray(original)
        data[place] = value
        replace_bytes(folder, name, bytes(data))
        try:
            read_bundle(folder)
        except BundleError:
            refused += 1
    assert refused > 200


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
