"""``mpq-export`` as a user meets it."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import time

import pytest
from commands import BIN, assert_user_error, run, run_anew

from mpq_export.bundle import read_bundle


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_json_report_and_bundle(pipeline_folder, tmp_path):
    out = tmp_path / "deep" / "b"
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--method", "rtn",
        "--inference-steps", 2, "--out", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bundle"] == str(out)
    assert report["average_weight_bits"] == 3
    assert 3 < report["average_weight_bits_all"] < 4
    assert report["packed_bytes"] < report["fp32_bytes"]
    assert report["onnx_bytes"] == (out / "onnx" / "ort" / "model.onnx").stat().st_size
    assert report["layers_quantized"] == len(read_bundle(out).layers)
    assert report["layers_kept"] == len(read_bundle(out).quantization.kept)
    assert "quantize" in done.stderr, "progress goes to stderr"
    assert {path.name for path in out.parent.iterdir()} == {"b"}


def test_an_existing_bundle_is_lowered_to_another_target(bundle_folder, tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(bundle_folder, bundle)
    done = run("mpq-export", "--ckpt", bundle, "--target", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["lowered_bytes"]) == ["onnx"]
    assert report["onnx_bytes"] == report["lowered_bytes"]["onnx"]
    assert (bundle / "weights.safetensors").read_bytes() == (
        bundle_folder / "weights.safetensors"
    ).read_bytes()


def test_an_existing_bundle_can_be_lowered_into_a_copy(bundle_folder, tmp_path):
    done = run("mpq-export", "--ckpt", bundle_folder, "--out", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert read_bundle(tmp_path / "copy").quantization == read_bundle(bundle_folder).quantization
    assert not (bundle_folder / "onnx").exists()


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ("w9a4", ["9-bit weights", "2 to 8"]),
        ("w3a1", ["1-bit activations"]),
        ("3a4", ["'3a4' is not a bit width", "w3a4"]),
        ("w3", ["'w3' is not a bit width"]),
        ("", ["'' is not a bit width"]),
    ],
)
def test_bad_bits(pipeline_folder, tmp_path, bits, words):
    out = tmp_path / "b"
    done = run("mpq-export", "--ckpt", pipeline_folder, "--bits", bits, "--out", out)
    assert_user_error(done, *words)
    assert list(tmp_path.iterdir()) == []


def test_missing_bits(pipeline_folder, tmp_path):
    done = run("mpq-export", "--ckpt", pipeline_folder, "--out", tmp_path / "b")
    assert_user_error(done, "needs --bits", "w3a4")


def test_bits_for_a_bundle(bundle_folder):
    done = run("mpq-export", "--ckpt", bundle_folder, "--bits", "w3a4")
    assert_user_error(done, "already quantised")


def test_missing_checkpoint(tmp_path):
    done = run("mpq-export", "--ckpt", tmp_path / "no", "--bits", "w3a4", "--out", tmp_path / "b")
    assert_user_error(done, "no such checkpoint", str(tmp_path / "no"))


def test_unknown_method(pipeline_folder, tmp_path):
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--method", "magic",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert_user_error(done, "'magic'", "mpq-dmv2")


def test_corrupt_weights_leave_nothing_behind(pipeline_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(pipeline_folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run("mpq-export", "--ckpt", broken, "--bits", "w3a4", "--out", tmp_path / "b")
    assert_user_error(done, "cannot be read", "complete")
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_a_pickle_that_wants_code_gets_none(tmp_path):
    victim, file = tmp_path / "victim", tmp_path / "model.pt"
    file.write_bytes(pickle.dumps({"state_dict": Payload(victim)}))
    done = run("mpq-export", "--ckpt", file, "--bits", "w3a4", "--out", tmp_path / "b")
    assert_user_error(done, "could run code", "safetensors")
    assert not victim.exists()
    assert not (tmp_path / "b").exists()


def test_a_folder_with_other_files_is_not_overwritten(pipeline_folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--inference-steps", 2,
        "--out", tmp_path,
    )  # fmt: skip
    assert_user_error(done, "holds other files")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_too_many_steps(pipeline_folder, tmp_path):
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--inference-steps", 5000,
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert_user_error(done, "5000 sampling steps", "1000")


def test_help_shows_examples_and_imports_nothing_heavy():
    for command in ("mpq-export", "mpq-sample", "mpq-check", "mpq-doctor"):
        done = run_anew(command, "--help")
        assert done.returncode == 0
        assert "Examples" in done.stdout
        assert command in done.stdout


def test_unknown_options_exit_with_two():
    done = run("mpq-export", "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "option", [["--method", "rtn"], ["--seed", "0"], ["--inference-steps", "3"]]
)
def test_options_that_would_do_nothing_are_refused(bundle_folder, option):
    done = run("mpq-export", "--ckpt", bundle_folder, *option)
    assert_user_error(done, "already quantised", option[0])


def test_a_config_for_a_folder_is_refused(pipeline_folder, tmp_path):
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--config", "nope.json",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert_user_error(done, "config.json of its own")


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
def test_seeds_out_of_range(pipeline_folder, seed):
    done = run("mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--seed", seed)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, (1, 130)), (signal.SIGTERM, (143,))])
def test_a_signal_leaves_nothing_behind(pipeline_folder, tmp_path, number, code):
    """Sent as soon as the half-written folder appears, while the model is being lowered."""
    process = subprocess.Popen(
        [BIN / "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--train-steps", "0",
         "--out", tmp_path / "b"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs, such as this very run of the tests, are deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read().decode()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in code
    assert list(tmp_path.iterdir()) == []


def test_an_output_name_that_no_file_system_takes(pipeline_folder, tmp_path):
    out = tmp_path / ("x" * 300)
    done = run("mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--out", out)
    assert_user_error(done, "cannot be written", "too long")
    assert list(tmp_path.iterdir()) == []


def test_notes_on_the_checkpoint_are_reported(pipeline_folder, tmp_path):
    """A fp16 variant, out of a hub cache, named by its hub id."""
    snapshot = tmp_path / "home/hub" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(pipeline_folder, snapshot)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    (tmp_path / "home/hub/models--someone--tiny/refs").mkdir()
    (tmp_path / "home/hub/models--someone--tiny/refs/main").write_text("0" * 40)
    done = subprocess.run(
        [BIN / "mpq-export", "--ckpt", "someone/tiny@main", "--bits", "w4a8", "--method", "rtn",
         "--inference-steps", "2", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bundle"] == "out/tiny-w4a8"
    assert any("variant fp16" in note for note in report["notes"])
    assert read_bundle(tmp_path / "out/tiny-w4a8").quantization.source == f"someone/tiny@{'0' * 40}"


def test_hub_ids_that_are_not_cached_are_a_user_error(tmp_path):
    done = subprocess.run(
        [BIN / "mpq-export", "--ckpt", "someone/tiny", "--bits", "w4a8"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert_user_error(done, "someone/tiny", "not in the cache", "HF_HUB_OFFLINE")


def test_a_dry_run_says_everything_and_writes_nothing(pipeline_folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('bits: w3a4\nlayers:\n  - {match: "*.to_v", bits: w4a8}\n')
    words = ("mpq-export", "--ckpt", pipeline_folder, "--recipe", recipe, "--dry-run")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("conv_in ") for line in done.stdout.splitlines())
    for expected in ("w4a8", "rule *.to_v", "normalisation", "weights.safetensors", "memory"):
        assert expected in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}
    report = json.loads(run(*words, "--json", cwd=tmp_path).stdout)
    out = tmp_path / "b"
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--recipe", recipe, "--inference-steps", 20,
        "--train-steps", 0, "--out", out, "--json",
    )  # fmt: skip
    real = json.loads(done.stdout)
    assert real["fp32_bytes"] == report["fp32_bytes"]
    assert abs(real["packed_bytes"] - report["packed_bytes"]) < 0.02 * real["packed_bytes"]
    overridden = read_bundle(out).quantization.overridden
    assert overridden
    assert set(overridden.values()) == {"rule *.to_v"}


def test_a_recipe_that_matches_nothing_is_a_user_error(pipeline_folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('layers:\n  - {match: "*.to_w", bits: w4a8}\n')
    done = run(
        "mpq-export", "--ckpt", pipeline_folder, "--bits", "w3a4", "--recipe", recipe, "--out",
        tmp_path / "b",
    )  # fmt: skip
    assert_user_error(done, "matches no layer", "*.to_w")
