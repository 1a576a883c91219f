"""``mpq-check``, ``mpq-sample`` and ``mpq-doctor`` as a user meets them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from commands import assert_user_error, run
from onnx import load, numpy_helper, save

from mpq_export.bundle import read_bundle, write_bundle
from mpq_export.cli.check import _print
from mpq_export.evaluation.check import CheckReport
from mpq_export.evaluation.layer_fidelity import NodeResult
from mpq_export.files import write_manifest
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.selection import Selection


@pytest.fixture
def copied(lowered_folder, tmp_path):
    shutil.copytree(lowered_folder, tmp_path / "b")
    return tmp_path / "b"


def test_check_passes_and_names_the_worst_layers(lowered_folder, pipeline_folder):
    done = run("mpq-check", lowered_folder, "--ckpt", pipeline_folder, "--worst", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["nodes"] == report["nodes_exact"] > 40
    assert len(report["worst_layers"]) == 2
    assert report["against_full_precision"]["relative"] > 0


def test_check_fails_with_one_on_a_wrong_node(copied):
    """The lowered file is changed and signed again: hashes are right, integers are not."""
    folder = copied / "onnx" / "onnx"
    model = load(folder / "model.onnx")
    name = "mid_block.resnets.0.conv1"
    (tensor,) = [t for t in model.graph.initializer if t.name == f"{name}.weight"]
    values = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    save(model, folder / "model.onnx")
    write_manifest(folder, ["model.onnx"])
    done = run("mpq-check", copied, "--runtime", "onnx")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert f"worst: {name}" in done.stdout
    assert run("mpq-check", copied, "--runtime", "ort").returncode == 0


@pytest.mark.parametrize("file", ["config.json", "weights.safetensors", "onnx/ort/model.onnx"])
def test_a_tampered_bundle_is_refused(copied, file):
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(data)
    assert_user_error(run("mpq-check", copied), "not the one that was written")


def test_missing_bundles_are_named(tmp_path):
    for command in ("mpq-check", "mpq-sample"):
        assert_user_error(run(command, tmp_path / "no"), "no such bundle", str(tmp_path / "no"))


def test_a_checkpoint_is_not_a_bundle(pipeline_folder):
    assert_user_error(run("mpq-sample", pipeline_folder), "manifest.json")


def test_a_bundle_without_a_family_cannot_be_sampled(bundle_folder, tmp_path):
    bundle = read_bundle(bundle_folder)
    alone = bundle.quantization.model_copy(update={"family": None})
    (tmp_path / "b").mkdir()
    write_bundle(tmp_path / "b", replace(bundle, quantization=alone))
    done = run("mpq-sample", tmp_path / "b", "--out", tmp_path / "grid.png")
    assert_user_error(done, "names no model family", "Denoiser")
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_a_denoiser_alone_is_drawn_by_our_own_steps(lowered_folder, tmp_path):
    """The fixture's pipeline is diffusers' DDIM, which knows no labels; ours takes them in turn."""
    done = run(
        "mpq-sample", lowered_folder, "--num-images", 3, "--out", tmp_path / "grid.png", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sampler"] == "numpy"
    done = run("mpq-sample", lowered_folder, "--prompt", "x", "--out", tmp_path / "grid.png")
    assert_user_error(done, "takes neither prompts nor guidance")


def test_doctor_reads_a_bundle(lowered_folder, tmp_path):
    done = run("mpq-doctor", lowered_folder, "--json")
    assert done.returncode == 0, done.stderr
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["bundle"]["ok"]
    assert findings["target ort"]["ok"]
    assert run("mpq-doctor").returncode == 0
    assert run("mpq-doctor", tmp_path).returncode == 1


@pytest.mark.parametrize("name", ["grid.xyz", "grid", "folder.png"])
def test_pictures_that_cannot_be_written_are_refused_before_drawing(lowered_folder, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    done = run("mpq-sample", lowered_folder, "--out", tmp_path / name)
    assert_user_error(done, "picture cannot be written", ".png")


def test_checks_have_bounds(lowered_folder):
    for option in ("--images", "--steps"):
        done = run("mpq-check", lowered_folder, option, "100000000000")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("runtime", "advice"), [(Runtime.TORCH, "use --runtime ort"), (Runtime.ORT, "--float16")]
)
def test_nodes_that_overflow_are_counted_with_advice_that_helps(runtime, advice, capsys):
    node = NodeResult("conv_in", True, 0.0, 0.0, 0.5, None)
    _print(Selection(runtime, runtime), CheckReport((node,), None, None), worst=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "FAILED" in said
    assert "1 nodes gave infinity or NaN" in said
    assert advice in said
    assert said.count("65504") == 1


def test_the_torch_runtime_says_what_it_ran_on(lowered_folder, tmp_path):
    """Here there is no GPU for it."""
    out = tmp_path / "grid.png"
    done = run("mpq-sample", lowered_folder, "--runtime", "torch", "--num-images", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "torch (integer reference on the processor: " in done.stdout
    assert out.is_file()
    done = run("mpq-check", lowered_folder, "--runtime", "torch")
    assert_user_error(done, "reference itself here", "Choose ort")
