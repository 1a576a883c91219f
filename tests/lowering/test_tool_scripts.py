"""The scripts beside a model for TensorRT, run as docs/tensorrt.md says."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marks import needs_tensorrt_rtx

from mpq_export.bundle import read_bundle
from mpq_export.errors import UserError
from mpq_export.files import require_replaceable
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import make_session, runnable_graph
from mpq_export.runtimes.tensorrt.flavour import environment

BIN = Path(sys.executable).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "tensorrt.md"


@pytest.fixture(scope="module")
def folder(lowered_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(lowered_folder, tmp_path_factory.mktemp("tools") / "bundle"))


def lines_of(heading: str) -> list[str]:
    """The commands of the shell block below a heading of the document."""
    section = DOCUMENT.read_text().partition(f"\n### {heading}\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, heading
    return block[1].replace("\\\n", " ").strip().splitlines()


def shell(line: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env={**os.environ, "PATH": path, **more},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def comparison(folder: Path) -> str:
    """What the document's lines print last; the files that they write stay."""
    lines = lines_of("With Polygraphy, without a GPU")
    assert len(lines) == 3
    for line in lines:
        done = shell(line, folder)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_documents_lines_compare_two_forms_in_onnxruntime(
    folder: Path, comparison: str
) -> None:
    errors = [float(text) for text in re.findall(r"relative error ([\d.]+)%", comparison)]
    assert len(errors) == len(read_bundle(folder).timesteps)
    assert max(errors) < 25


@pytest.mark.parametrize(("factor", "words"), [(3.0, "200"), (float("nan"), "inf")])
def test_a_wrong_prediction_is_noticed(
    folder: Path, comparison: str, factor: float, words: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of Polygraphy's own files; the script is imported as Polygraphy would."""
    monkeypatch.syspath_prepend(str(folder / "onnx" / "trt" / "tools"))
    compare = importlib.import_module("compare")
    outputs = compare.read_outputs(folder / "reference.json")
    worse = [{name: value * factor for name, value in entry.items()} for entry in outputs]
    for found, reference in zip(worse, outputs, strict=True):
        assert compare.compare_outputs(reference, reference) == {"prediction": True}
        assert compare.compare_outputs(found, reference) == {"prediction": False}
    assert words in capsys.readouterr().out


def test_inputs_are_those_of_the_model(folder: Path) -> None:
    """A session takes them, for every step; the same script gives the same numbers."""
    code = (
        "import sys; sys.path.insert(0, 'onnx/trt/tools'); import data_loader, numpy;"
        "feeds = enumerate(data_loader.load_data());"
        "numpy.savez('feeds.npz', **{f'{n}-{k}': v for n, feed in feeds for k, v in feed.items()})"
    )
    session = make_session(runnable_graph(read_bundle(folder), Runtime.ONNX))
    names = {value.name for value in session.get_inputs()}
    runs = []
    for _ in range(2):
        done = shell(f'{sys.executable} -c "{code}"', folder, MPQ_BATCH="3")
        assert done.returncode == 0, done.stderr
        runs.append(dict(np.load(folder / "feeds.npz")))
    for key in runs[0]:
        np.testing.assert_array_equal(runs[0][key], runs[1][key])
    for step in range(len(read_bundle(folder).timesteps)):
        feed = {k.partition("-")[2]: v for k, v in runs[0].items() if k.startswith(f"{step}-")}
        assert feed.keys() == names
        assert session.run(["prediction"], feed)[0].shape == (3, 2, 8, 8)


def test_trtexecs_options_name_files_of_the_right_size(folder: Path) -> None:
    done = shell(f"{sys.executable} onnx/trt/tools/data_loader.py inputs", folder, MPQ_BATCH="2")
    assert done.returncode == 0, done.stderr
    shapes, files = done.stdout.split()
    assert shapes == "--shapes=sample:2x2x8x8,class_labels:2"
    named = dict(entry.split(":") for entry in files.removeprefix("--loadInputs=").split(","))
    sizes = {name: (folder / path).stat().st_size for name, path in named.items()}
    assert sizes == {"sample": 4 * 2 * 2 * 64, "timestep": 4, "step_index": 4, "class_labels": 16}


def test_trtexecs_outputs_are_read(folder: Path, tmp_path: Path) -> None:
    def write(name: str, values: list[float]) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps([{"name": "prediction", "dimensions": "3", "values": values}]))
        return path

    reference = write("reference.json", [1, 2, 3])
    script = folder / "onnx" / "trt" / "tools" / "compare.py"
    for values, code in (([1, 2, 3.1], 0), ([3, 2, 1], 1)):
        found = write("found.json", values)
        done = shell(f"{sys.executable} {script} {reference} {found}", tmp_path)
        assert done.returncode == code, done.stderr


@pytest.mark.tensorrt
@needs_tensorrt_rtx
def test_polygraphy_builds_the_model_with_its_plugin(folder: Path, tmp_path: Path) -> None:
    (line,) = lines_of("With Polygraphy and TensorRT-RTX")
    done = shell(line, folder, LD_LIBRARY_PATH=environment(tmp_path)["LD_LIBRARY_PATH"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert b"MPQConv" in (folder / "model.plan").read_bytes()


def test_a_model_can_be_lowered_again_over_its_tools(folder: Path) -> None:
    require_replaceable(folder / "onnx" / "trt")
    stranger = folder / "onnx" / "trt" / "notes.txt"
    stranger.touch()
    with pytest.raises(UserError, match="holds other files"):
        require_replaceable(folder / "onnx" / "trt")
    stranger.unlink()
