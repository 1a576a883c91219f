"""Engine files and their records: which is taken, which is refused, and who writes them."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_engines import HERE, inputs, opened, put_engine
from fake_tensorrt import PLAN, FakeTensorRt

from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError
from mpq_export.files import write_json
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import lowered_files
from mpq_export.runtimes.cuda.gpu import Gpu, find_gpu
from mpq_export.runtimes.tensorrt.engine_files import (
    build_command,
    fitting_record,
    writing_alone,
)
from mpq_export.runtimes.tensorrt.loaded_engine import load_with
from mpq_export.runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE


def test_the_engine_that_is_advised_is_the_one_taken_then(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as many images at most as the one before, whose name comes first."""
    put_engine(folder, model="A", shapes={"batch": [2, 3, 4]})
    bundle = read_bundle(folder)
    sample, conditions = inputs(bundle, 1)
    with pytest.raises(BundleError) as refusal:
        opened(folder, cuda, trt, monkeypatch)(sample, 7.0, **conditions)
    assert refusal.value.fix == (
        f"Build another: mpq-build {folder} --runtime trt --shapes batch:1..3..4"
    )
    put_engine(folder, shapes={"batch": [1, 3, 4]})
    found = opened(folder, cuda, trt, monkeypatch)(sample, 7.0, **conditions)
    assert found.shape == sample.shape


def test_commands_name_all_that_is_not_usual(tmp_path: Path) -> None:
    shapes = {"batch": [1, 2, 8], "tokens": [77, 77, 77]}
    assert build_command(tmp_path, "trt-int8", "trt-rtx", shapes) == (
        f"mpq-build {tmp_path} --runtime trt-rtx --target trt-int8 --shapes batch:1..2..8,tokens:77"
    )
    with pytest.raises(BundleError, match=r"--runtime trt --target trt-int8\.$"):
        fitting_record(tmp_path, "trt-int8", {}, HERE, "no GPU")


def test_records_that_are_none_leave_the_others(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half written as a killed command leaves them, renamed, or of another version's format."""
    record = put_engine(folder)
    engines = folder / "engine"
    own = engines / f"{record.identity.name}.json"
    (engines / f".{record.identity.name}.a1b2.json").write_text("{")
    (engines / "renamed.json").write_text(own.read_text())
    write_json(engines / "later.json", {**record.model_dump(), "format_version": 3})
    opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == [PLAN]
    own.unlink()
    with pytest.raises(
        BundleError, match=r"later\.json: .*malformed.*; renamed\.json: "
    ) as refusal:
        opened(folder, cuda, trt, monkeypatch)
    assert "a1b2" not in str(refusal.value)


def test_what_killed_builders_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    left = [tmp_path / "engine" / f".unet.a1b2.{suffix}" for suffix in ("plan", "json")]
    kept = tmp_path / "engine" / "unet.json"
    for path in (*left, kept):
        path.touch()
    with writing_alone(tmp_path, lambda _: None) as folder:
        assert [path for path in folder.iterdir() if path.name != ".building.json"] == [kept]
    assert list(folder.iterdir()) == [kept]


def test_a_leftover_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "engine" / ".unet.a1b2.plan").mkdir(parents=True)
    with (
        pytest.raises(BundleError, match=r"left cannot be removed.*a1b2\.plan"),
        writing_alone(tmp_path, lambda _: None),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "Another process builds"), ("{", "Another process builds"),
        ("[]", "Another process builds"), ('{"process": "one"}', "Another process builds"),
        ('{"process": 1, "since": 1e300}', "Another process builds"),
        ('{"process": 17, "since": 0}', "Process 17 builds an engine in"),
        ('{"process": 17, "since": 0, "more": "' + "x" * 5000 + '"}', "Another process builds"),
    ],
)  # fmt: skip
def test_a_second_build_says_whom_it_waits_for(
    tmp_path: Path, content: str | None, said: str
) -> None:
    (tmp_path / "engine").mkdir()
    first = os.open(tmp_path / "engine", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    if content is not None:
        (tmp_path / "engine" / ".building.json").write_text(content)
    told: list[str] = []

    def warn(text: str) -> None:
        told.append(text)
        os.close(first)  # the first build is done

    with writing_alone(tmp_path, warn) as folder:
        own = json.loads((folder / ".building.json").read_text())
        assert own["process"] == os.getpid()
        assert abs(own["since"] - time.time()) < 60
    (text,) = told
    assert text.startswith(said)
    assert text.endswith("This one waits until it is done.")
    assert list(folder.iterdir()) == []


def test_of_two_engines_the_one_by_later_settings_is_taken(folder: Path) -> None:
    kept = [put_engine(folder, settings=settings) for settings in (1, 3, 2)]
    files = lowered_files(folder, Target.TRT)
    gpu = Gpu(0, "RTX", (8, 6), 8)
    assert fitting_record(folder, "trt", files, HERE, gpu) == kept[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plugin": "1.mma-0"}, "packed layers are for plugin 1.mma-0, this is 1.mma-1"),
        ({"tensorrt": "10.7.0"}, "built by version 10.7.0, this is TensorRT 10.3.0"),
        ({"capabilities": ["87"]}, "for compute capability 87, Fake Orin has 86"),
        ({"runtime": "trt-rtx"}, "for --runtime trt-rtx"),
        ({"target": "trt-int8"}, "of the trt-int8 target"),
        ({"model_files": {"model.onnx": "0" * 64}}, "was lowered again since"),
    ],
)
def test_an_engine_of_elsewhere_is_explained_before_it_is_opened(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], words: str,
) -> None:  # fmt: skip
    put_engine(folder, **changes)
    with pytest.raises(BundleError, match=f"{words}.*Run: mpq-build .* --runtime trt"):
        opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == []


def test_the_largest_fitting_engine_is_taken(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder, b"too small", shapes={"batch": [1, 1, 1]})
    put_engine(folder)
    put_engine(folder, b"of another GPU", shapes={"batch": [1, 1, 16]}, capabilities=["80"])
    opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == [PLAN]


def test_a_damaged_plan_is_not_opened(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = put_engine(folder)
    (folder / "engine" / record.plan).write_bytes(PLAN[:-1] + b"!")
    with pytest.raises(BundleError, match=r"not the one that was written"):
        opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == []


def test_plain_int8_needs_no_plugin(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLUGIN_VARIABLE, raising=False)
    files = lowered_files(folder, Target.TRT_INT8)
    put_engine(folder, target="trt-int8", plugin="", model_files=files)
    bundle = read_bundle(folder)
    gpu = find_gpu(cuda.driver)
    loaded = load_with(trt, HERE, cuda.driver, gpu, bundle, Target.TRT_INT8)
    assert loaded.plugin == "plain INT8"
    assert trt.libraries == []


def test_no_engine_names_the_command(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match=r"No engine was built. Run: mpq-build .*bundle"):
        opened(folder, cuda, trt, monkeypatch)
