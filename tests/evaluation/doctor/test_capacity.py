"""Bundles and checkpoints held against machines of any size."""

import json
import os
import pickle
import shutil

import pytest
from hosts import fake_host

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import CheckpointError
from mpq_export.evaluation.doctor import capacity, examine
from mpq_export.tensor_headers import elements, tensor_shapes

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def small(tmp_path):
    """A machine with 1 MB of memory."""
    return fake_host(tmp_path / "small", {"proc/meminfo": "MemAvailable: 1000 kB\n"})


@pytest.fixture
def large(tmp_path):
    """A machine with 64 GB of memory."""
    return fake_host(tmp_path / "large", {"proc/meminfo": "MemAvailable: 64000000 kB\n"})


def by_subject(path, host):
    return {finding.subject: finding for finding in examine(path, host)}


def failed(findings):
    return {f.subject for f in findings.values() if f.about_given and not f.ok}


def test_a_good_bundle_verifies_and_missing_targets_are_named(bundle_folder, large):
    findings = by_subject(bundle_folder, large)
    assert findings["bundle"].ok
    assert not findings["target ort"].ok
    assert "--target ort" in findings["target ort"].advice
    assert failed(findings) == set()


def test_memory_is_that_of_int8_weights(bundle_folder):
    integers, largest, floating = capacity._expanded(bundle_folder)
    bundle = read_bundle(bundle_folder)
    sizes = [layer.weight.rows * layer.weight.columns for layer in bundle.layers.values()]
    assert (integers, largest) == (sum(sizes), max(sizes))
    tables = bundle.timesteps.nbytes + bundle.output_bias.nbytes
    assert floating == sum(value.nbytes for value in bundle.parameters.values()) + tables


def test_a_bundle_too_large_for_the_machine_does_not_fit(bundle_folder, small):
    assert {"memory in ONNX Runtime", "memory in torch"} <= failed(by_subject(bundle_folder, small))


def test_a_bundle_is_not_read_into_memory_that_is_not_there(bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "read_bundle", lambda _: pytest.fail("it was read"))
    host = fake_host(tmp_path, {"proc/meminfo": "MemAvailable: 10 kB\n"})
    findings = by_subject(bundle_folder, host)
    assert "not verified" in findings["bundle"].detail
    assert "bundle" in failed(findings)


def test_damage_is_a_finding_not_an_error(bundle_folder, tmp_path, large):
    folder = shutil.copytree(bundle_folder, tmp_path / "b")
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    assert failed(by_subject(folder, large)) == {"bundle"}
    (folder / "weights.safetensors").write_bytes(data[:-1])
    assert failed(by_subject(folder, large)) == {"given"}
    (folder / "weights.safetensors").unlink()
    assert failed(by_subject(folder, large)) == {"bundle"}


@pytest.mark.parametrize(
    "config",
    [
        "{", "[]", '{"quantization_config": 3}', '{"quantization_config": {"layers": {"a": {}}}}',
        '{"quantization_config": {"layers": {"a": {"K": "x"}}}}',
        '{"quantization_config": {"layers": []}}',
    ],
)  # fmt: skip
def test_configs_that_say_nonsense_are_findings(bundle_folder, tmp_path, large, config):
    folder = shutil.copytree(bundle_folder, tmp_path / "b")
    (folder / "config.json").write_text(config)
    assert failed(by_subject(folder, large))


def test_a_checkpoint_is_sized_by_its_header(pipeline_folder, large):
    model = load_checkpoint(pipeline_folder).model
    count = sum(value.numel() for value in model.state_dict().values())
    for path in (pipeline_folder, pipeline_folder / "unet", pipeline_folder / WEIGHTS):
        findings = by_subject(path, large)
        assert f"({count:,} values)" in findings["checkpoint"].detail
        assert "--dry-run" in findings["checkpoint"].advice
        assert failed(findings) == set()


def test_a_checkpoint_that_does_not_fit_fails(pipeline_folder, small, monkeypatch):
    monkeypatch.setattr(capacity, "free_disk", lambda _: 10)
    findings = by_subject(pipeline_folder, small)
    assert failed(findings) == {"memory to quantise", "disk for the bundle"}
    assert findings["memory to quantise"].advice


def test_pickles_are_not_opened(tmp_path, large):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "model.ckpt").write_bytes(pickle.dumps(Trap()))
    findings = by_subject(tmp_path / "model.ckpt", large)
    assert "not opened" in findings["checkpoint"].detail
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["nothing", "empty", "broken-link"])
def test_what_is_neither_is_said(tmp_path, large, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken-link").mkdir()
    link = tmp_path / "broken-link" / "diffusion_pytorch_model.safetensors"
    link.symlink_to(tmp_path / "gone")
    assert failed(by_subject(tmp_path / name, large)) == {"given"}


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 8, b"\xff" * 8, (10**9).to_bytes(8, "little") + b"{}", header([]),
        header({"a": 1}), header({"a": {"shape": [2], "data_offsets": [0]}}),
        header({"a": {"shape": [-2], "data_offsets": [0, 8]}}),
        header({"a": {"shape": [2], "data_offsets": [0, 8]}}) + b"1234567",
        header({"a": {"shape": [True], "data_offsets": [0, 0]}}),
        (18).to_bytes(8, "little") + b'{"a":{},"a":{}}   ',
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError):
        tensor_shapes(tmp_path / "x.safetensors")


def test_shapes_come_from_the_header_alone(pipeline_folder):
    shapes = tensor_shapes(pipeline_folder / WEIGHTS)
    state = load_checkpoint(pipeline_folder).model.state_dict()
    assert shapes == {name: tuple(value.shape) for name, value in state.items()}
    assert elements(shapes) == sum(value.numel() for value in state.values())
