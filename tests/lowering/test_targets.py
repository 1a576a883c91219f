"""The lowered variants of a bundle: what lies in their files, and that only those are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures import random_layer
from onnx import TensorProto, helper

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer, run_layer
from mpq_export.errors import BundleError, UserError
from mpq_export.files import MANIFEST, write_json, write_manifest
from mpq_export.lowering import graph as graph_module
from mpq_export.lowering import targets
from mpq_export.lowering.attention_nodes import ATTENTION
from mpq_export.lowering.gelu_nodes import GEGLU, GELU
from mpq_export.lowering.graph import DATA_FILE, Graph
from mpq_export.lowering.layer_norm_nodes import ADA_LAYER_NORM
from mpq_export.lowering.nodes import (
    CONV,
    DOMAIN,
    LINEAR,
    OPSET,
    make_node,
    model_from_graph,
    read_layer,
)
from mpq_export.lowering.norm_nodes import GROUP_NORM, GROUP_NORM_SILU
from mpq_export.lowering.targets import MODEL, Target, read_lowered, write_lowered
from mpq_export.runtimes.onnxruntime_denoiser import make_session

GEOMETRY = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
LAYERS = {
    "first": random_layer([2, 3, 3, 1], 36, 4, GEOMETRY, shift=[0, 1, 2, 4], factor=True),
    "second": random_layer([8, 8], 36, 8, GEOMETRY),
}
SHAPE = [1, 4, 5, 6]
IN_ONNXRUNTIME = (Target.ORT, Target.ONNX)


def packed_graph() -> Graph:
    """Two convolutions in a row, as the exporter makes them."""
    nodes, tensors, x = [], {}, "sample"
    for name, layer in LAYERS.items():
        node, own = make_node(name, layer, x, "step_index", f"{name}.y")
        nodes.append(node)
        tensors |= own
        x = f"{name}.y"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "two",
        [value("sample", TensorProto.FLOAT, SHAPE), value("step_index", TensorProto.INT32, [1])],
        [value(x, TensorProto.FLOAT, [1, 2, 5, 6])],
    )  # fmt: skip
    return Graph.of(model_from_graph(graph), tensors)


@pytest.fixture(params=Target)
def target(request: pytest.FixtureRequest) -> Target:
    """Every target."""
    return request.param


@pytest.fixture
def lowered(tmp_path: Path, target: Target) -> Path:
    """The folder of a target's model."""
    return write_lowered(tmp_path, packed_graph(), target).parent


def expected(x: np.ndarray, step_index: int) -> np.ndarray:
    for layer in LAYERS.values():
        x = run_layer(layer, x, step_index).output
    return x


def test_a_target_lies_in_its_own_folder(tmp_path: Path, target: Target) -> None:
    path = write_lowered(tmp_path, packed_graph(), target)
    assert path == tmp_path / "onnx" / target.value / MODEL
    assert {file.name for file in path.parent.iterdir()} == {MODEL, MANIFEST}
    assert list(json.loads((path.parent / MANIFEST).read_text())["files"]) == [MODEL]


@pytest.mark.parametrize("step_index", [0, 2])
@pytest.mark.parametrize("target", IN_ONNXRUNTIME)
def test_a_lowered_model_computes_the_reference(
    tmp_path: Path, target: Target, step_index: int
) -> None:
    write_lowered(tmp_path, packed_graph(), target)
    session = make_session(read_lowered(tmp_path, target))
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    feeds = {"sample": x, "step_index": np.array([step_index], np.int32)}
    assert np.array_equal(session.run(None, feeds)[0], expected(x, step_index))


def test_ort_keeps_packed_nodes_and_their_bodies(tmp_path: Path) -> None:
    write_lowered(tmp_path, packed_graph(), Target.ORT)
    graph = read_lowered(tmp_path, Target.ORT)
    model = graph.model
    assert {(node.domain, node.op_type) for node in model.graph.node} == {(DOMAIN, CONV)}
    assert {(body.domain, body.name) for body in model.functions} == {
        (DOMAIN, LINEAR),
        (DOMAIN, CONV),
        (DOMAIN, GROUP_NORM),
        (DOMAIN, GROUP_NORM_SILU),
        (DOMAIN, ATTENTION),
        (DOMAIN, GELU),
        (DOMAIN, GEGLU),
        (DOMAIN, ADA_LAYER_NORM),
    }
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, DOMAIN: 1}
    for node in model.graph.node:
        assert_same(read_layer(node, graph.values()), LAYERS[node.name])


def assert_same(one: PackedLayer, other: PackedLayer) -> None:
    assert one.conv == other.conv
    assert one.act_bits == other.act_bits
    assert np.array_equal(one.weight.planes, other.weight.planes)
    assert np.array_equal(one.weight.steps, other.weight.steps)
    assert np.array_equal(one.input_shift, other.input_shift)


def test_onnx_has_standard_operators_only(tmp_path: Path) -> None:
    write_lowered(tmp_path, packed_graph(), Target.ONNX)
    model = read_lowered(tmp_path, Target.ONNX).model
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert {entry.domain for entry in model.opset_import} == {""}


def test_lowering_again_replaces_the_file_and_leaves_other_targets(tmp_path: Path) -> None:
    for target in (Target.ORT, Target.ONNX, Target.ORT):
        write_lowered(tmp_path, packed_graph(), target)
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"ort", "onnx"}


def test_a_graph_that_is_not_valid_leaves_the_old_file(
    lowered: Path, tmp_path: Path, target: Target
) -> None:
    before = (lowered / MODEL).read_bytes()
    broken = packed_graph()
    broken.model.graph.node[1].input[0] = "nothing"
    with pytest.raises(onnx.checker.ValidationError):
        write_lowered(tmp_path, broken, target)
    assert (lowered / MODEL).read_bytes() == before


def test_foreign_files_are_not_replaced(tmp_path: Path, target: Target) -> None:
    folder = tmp_path / "onnx" / target.value
    folder.mkdir(parents=True)
    (folder / "mine.onnx").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds other files"):
        write_lowered(tmp_path, packed_graph(), target)


def test_what_was_not_lowered_names_the_command(tmp_path: Path, target: Target) -> None:
    with pytest.raises(BundleError, match="has not been lowered") as caught:
        read_lowered(tmp_path, target)
    assert f"--target {target.value}" in caught.value.fix


def _flip(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL).write_bytes(data)


def _link(folder: Path) -> None:
    (folder / MODEL).rename(folder.parent / "outside.onnx")
    (folder / MODEL).symlink_to(folder.parent / "outside.onnx")


def _other_name(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    data["files"]["../outside.onnx"] = data["files"].pop(MODEL)
    write_json(folder / MANIFEST, data)


def _nonsense(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"\xffnonsense")
    write_manifest(folder, [MODEL])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MODEL).unlink(), "missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "missing"),
        (_flip, "not the one that was written"),
        (_link, "is a link"),
        (_other_name, "does not list"),
        (_nonsense, "not ONNX"),
    ],
)
def test_damage_is_refused(
    lowered: Path, tmp_path: Path, target: Target, damage: Callable[[Path], None], message: str
) -> None:
    damage(lowered)
    with pytest.raises(BundleError, match=message):
        read_lowered(tmp_path, target)


@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_external_data_is_refused(tmp_path: Path, place: str) -> None:
    """A lowered model cannot make the program read a file that the manifest does not list."""
    tensor = helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    graph = helper.make_graph(
        [constant] if place == "attribute" else [],
        "g", [], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        [tensor] if place == "initializer" else [],
    )  # fmt: skip
    folder = tmp_path / "onnx" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    write_manifest(folder, ["model.onnx"])
    with pytest.raises(BundleError, match="read what it must not"):
        read_lowered(tmp_path, Target.ONNX)


# --- more than one file -----------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a target's model whose large tensors lie in a second file."""
    monkeypatch.setattr(targets, "ONE_FILE_BYTES", 4000)
    monkeypatch.setattr(graph_module, "SMALL_BYTES", 64)
    return write_lowered(tmp_path, packed_graph(), target).parent


def test_large_graphs_keep_their_tensors_in_a_second_file(
    two_files: Path, tmp_path: Path, target: Target
) -> None:
    assert {path.name for path in two_files.iterdir()} == {MODEL, DATA_FILE, MANIFEST}
    assert list(json.loads((two_files / MANIFEST).read_text())["files"]) == [MODEL, DATA_FILE]
    onnx.checker.check_model(two_files / MODEL)
    graph = read_lowered(tmp_path, target)
    inline = onnx.load(two_files / MODEL)  # onnx's own reader finds the second file
    for tensor in inline.graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), graph.values()[tensor.name])
    if target not in IN_ONNXRUNTIME:
        return
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    feeds = {"sample": x, "step_index": np.array([1], np.int32)}
    assert np.array_equal(make_session(graph).run(None, feeds)[0], expected(x, 1))
    from_disk = onnxruntime.InferenceSession(two_files / MODEL, providers=["CPUExecutionProvider"])
    assert np.array_equal(from_disk.run(None, feeds)[0], expected(x, 1))


def test_a_second_file_goes_when_it_is_not_needed_any_more(
    two_files: Path, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    write_lowered(tmp_path, packed_graph(), target)
    assert {path.name for path in two_files.iterdir()} == {MODEL, MANIFEST}


def _tensor_entry(key: str, value: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / MODEL, load_external_data=False)
        tensor = next(t for t in model.graph.initializer if len(t.external_data))
        entries = {entry.key: entry for entry in tensor.external_data}
        entries[key].value = value
        (folder / MODEL).write_bytes(model.SerializeToString())
        write_manifest(folder, [MODEL, DATA_FILE])

    return change


def _larger_shape(folder: Path) -> None:
    model = onnx.load(folder / MODEL, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if len(t.external_data))
    tensor.dims[0] = 2**40
    (folder / MODEL).write_bytes(model.SerializeToString())
    write_manifest(folder, [MODEL, DATA_FILE])


def _data_changed(folder: Path) -> None:
    data = bytearray((folder / DATA_FILE).read_bytes())
    data[0] ^= 1
    (folder / DATA_FILE).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_tensor_entry("location", "../secret"), "must not"),
        (_tensor_entry("location", "/etc/passwd"), "must not"),
        (_tensor_entry("offset", "-64"), "must not"),
        (_tensor_entry("offset", str(2**62)), "must not"),
        (_tensor_entry("offset", "many"), "must not"),
        (_tensor_entry("length", "0"), "must not"),
        (_larger_shape, "must not"),
        (_data_changed, "not the one that was written"),
        (lambda folder: (folder / DATA_FILE).unlink(), "does not list"),
    ],
)
def test_places_outside_the_second_file_are_refused(
    two_files: Path, tmp_path: Path, target: Target, damage: Callable[[Path], None], message: str
) -> None:
    damage(two_files)
    with pytest.raises(BundleError, match=message):
        read_lowered(tmp_path, target)
