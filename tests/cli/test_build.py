"""``mpq-build``, and what other commands do with engines, as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import assert_user_error, run
from marks import needs_tensorrt_rtx

from mpq_export.cli.build import build_where_possible
from mpq_export.cli.export import _engine
from mpq_export.errors import RuntimeUnavailable
from mpq_export.files import require_replaceable
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import installed as installing

without_tensorrt = pytest.mark.skipif(
    find_spec("tensorrt") is not None or os.path.exists("/dev/nvidiactl"),
    reason="says what is missing where nothing is",
)


@pytest.fixture
def folder(lowered_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lowered_folder, tmp_path / "bundle"))


@needs_tensorrt_rtx
@pytest.mark.tensorrt
@without_tensorrt
def test_an_engine_and_what_it_is(folder: Path) -> None:
    done = run("mpq-build", folder, "--shapes", "batch:1..2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["runtime"] == "trt-rtx"
    assert report["shapes"] == {"batch": [1, 2, 2]}
    assert Path(report["engine"]).stat().st_size == report["engine_bytes"]
    assert report["constants_bytes"] < report["engine_bytes"]
    assert "engine" in done.stderr, "progress goes to stderr"
    again = run("mpq-build", folder, "--shapes", "batch:1..2")
    assert again.returncode == 0, again.stderr
    assert "it was there" in again.stdout
    assert f"Next: mpq-sample {folder} --runtime trt-rtx" in again.stdout
    # There is no GPU to run it on, and nothing runs in its place.
    assert_user_error(run("mpq-sample", folder, "--runtime", "trt-rtx"), "no NVIDIA driver")


@without_tensorrt
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtime", "trt"], ["'tensorrt' cannot be used", "not installed"]),
        (["--runtime", "ort"], ["Engines are TensorRT's", "--runtime trt"]),
        (["--target", "onnx"], ["Engines are TensorRT's", "--target onnx"]),
        (["--shapes", "batch:0", "--runtime", "trt-rtx"], ["--shapes batch:0", "does not rise"]),
    ],
)
def test_what_is_asked_for_must_be_possible(
    lowered_folder: Path, words: list[str], said: list[str]
) -> None:
    assert_user_error(run("mpq-build", lowered_folder, *words), *said)


def test_a_bundle_that_was_not_lowered(bundle_folder: Path) -> None:
    done = run("mpq-build", bundle_folder, "--runtime", "trt-rtx")
    assert_user_error(done, "not been lowered to 'trt'", "--target trt")


def test_engines_nodes_cannot_be_checked(lowered_folder: Path) -> None:
    done = run("mpq-check", lowered_folder, "--runtime", "trt")
    assert_user_error(done, "nodes cannot be read out", "compare.py")


def test_plain_int8_belongs_to_the_trt_target(bundle_folder: Path) -> None:
    assert_user_error(run("mpq-export", "--ckpt", bundle_folder, "--plain-int8"), "--target trt")


@needs_tensorrt_rtx
@pytest.mark.tensorrt
@without_tensorrt
def test_exporting_for_tensorrt_ends_with_the_engine(bundle_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--ckpt", bundle_folder, "--target", "trt", "--plain-int8", "--out", out, "--json"]
    done = run("mpq-export", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["target"] == Target.TRT_INT8
    assert Path(report["engine"]["engine"]).parent == out / "engine"
    assert (out / "onnx" / "trt-int8" / "tools" / "compare.py").is_file()
    require_replaceable(out)  # with its engine it is still what this program wrote


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_where_no_engine_can_be_built_the_folder_is_ready(
    lowered_folder: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    def missing(runtime: Runtime) -> None:
        raise RuntimeUnavailable(f"There is no {runtime.value}", why="It is not installed")

    monkeypatch.setattr(installing, "installed", missing)
    report, words = build_where_possible(lowered_folder, target)
    assert report is None
    assert "No engine was built here: trt: There is no trt. It is not installed" in words
    option = "" if target is Target.TRT else " --target trt-int8"
    assert words.endswith(
        "The folder is ready for the machine that will run it. Copy it there, and run: "
        f"mpq-build {lowered_folder.name}{option}"
    )
    assert not (lowered_folder / "engine").exists()


def test_a_model_that_tensorrt_refuses_is_a_bundle_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "usual_runtime", lambda _: Runtime.TRT_RTX)
    (folder / "onnx" / "trt" / "model.onnx").write_bytes(b"none")
    report, words = _engine(folder, Target.TRT, no_engine=False)
    assert report is None
    assert words.startswith("The bundle is written, but its engine is not. ")
    assert "not the one that was written" in words
    assert _engine(folder, Target.TRT, no_engine=True)[1].startswith(f"Next: mpq-build {folder}")
