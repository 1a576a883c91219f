"""Building by trtexec, played by a script that takes its options and writes its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fixtures
import pytest

from mpq_export.bundle import read_bundle
from mpq_export.errors import RuntimeUnavailable
from mpq_export.lowering.names import Target
from mpq_export.runtimes.cuda.gpu import Gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import engine_builds, trtexec
from mpq_export.runtimes.tensorrt.engine_builds import Engine, EngineRequest, build
from mpq_export.runtimes.tensorrt.installed import Installed
from mpq_export.runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE
from mpq_export.runtimes.tensorrt.trtexec import line_of_trtexec, trtexec_version

ORIN = Gpu(0, "Orin", (8, 7), 8)
SCRIPT = """#!{python}
import sys
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300]")
print("[11/23/2026-12:00:00] [I] [TRT] Local timing cache in use.", flush=True)
{action}
"""
BUILDS = """
open(options["saveEngine"], "w").write("\\n".join(sorted(sys.argv[1:])))
open(options["timingCacheFile"], "w").write("measured")
"""
FAILS = """
print("[11/23/2026-12:00:00] [E] [TRT] 3: Plugin not found, are the plugin name right?")
sys.exit(1)
"""


@pytest.fixture
def built(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """An engine by a trtexec that does this."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(PLUGIN_VARIABLE, str(folder / "config.json"))

    def build_by(
        action: str, target: Target = Target.TRT, script: str = SCRIPT, **choices: object
    ) -> Engine:
        program = tmp_path / "trtexec"
        program.write_text(script.format(python=sys.executable, action=action))
        program.chmod(0o755)
        here = Installed(Runtime.TRT, "10.3.0", program)
        monkeypatch.setattr(engine_builds, "installed", lambda _: here)
        monkeypatch.setattr(engine_builds, "gpu_here", lambda: ORIN)
        request = EngineRequest(target, Runtime.TRT, **choices)
        return build(read_bundle(folder), request, fixtures.SilentProgress(), lambda _: None)

    return build_by


def test_its_options_say_what_was_asked_for(built, folder: Path, tmp_path: Path) -> None:
    engine = built(BUILDS, shapes="batch:1..2..4", memory_limit_mb=5000)
    words = engine.path.read_text().split("\n")
    for index, kind in ((1, "min"), (2, "opt"), (4, "max")):
        assert f"--{kind}Shapes=sample:{index}x2x8x8,class_labels:{index}" in words
    assert f"--onnx={folder / 'onnx' / 'trt' / 'model.onnx'}" in words
    assert f"--dynamicPlugins={folder / 'config.json'}" in words, "not --staticPlugins"
    assert "--stronglyTyped" in words
    assert "--skipInference" in words
    (pool,) = [word for word in words if word.startswith("--memPoolSize=workspace:")]
    assert 3000 < int(pool.rpartition(":")[2].removesuffix("M")) < 5000
    assert [path.read_text() for path in (tmp_path / "cache").rglob("timing-*.cache")] == [
        "measured"
    ]
    assert "trt10.3.0-sm87" in engine.path.name
    assert engine.record.identity.builder == "trtexec"
    assert built(FAILS, shapes="batch:1..2..4", memory_limit_mb=5000).found


def test_plain_int8_loads_no_plugin(built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLUGIN_VARIABLE)
    assert "Plugins" not in built(BUILDS, Target.TRT_INT8).path.read_text()


def test_its_error_is_passed_on(built, folder: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"Plugin not found.*exit code 1"):
        built(FAILS)
    assert list((folder / "engine").iterdir()) == []


def test_a_trtexec_that_cannot_be_started_is_told_of(built, folder: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"trtexec cannot be started: Exec format error"):
        built("", script="\0")
    assert list((folder / "engine").iterdir()) == []


def test_no_engine_in_spite_of_success_is_an_error(built, folder: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"wrote no engine.*model\.onnx.*not say why"):
        built("")
    assert list((folder / "engine").iterdir()) == []


def test_without_a_folder_for_measurements_it_builds(built, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    words = built(BUILDS.partition('open(options["timing')[0]).path.read_text()
    assert "--saveEngine" in words
    assert "--timingCacheFile" not in words


@pytest.mark.parametrize(("named", "words"), [(None, "needs the plugin"), ("no", "no such file")])
def test_the_plugin_must_be_named(
    built, monkeypatch: pytest.MonkeyPatch, named: str | None, words: str
) -> None:
    monkeypatch.delenv(PLUGIN_VARIABLE)
    if named is not None:
        monkeypatch.setenv(PLUGIN_VARIABLE, named)
    with pytest.raises(RuntimeUnavailable, match=f"(?i){words}"):
        built(BUILDS)


def test_lines_of_its_log() -> None:
    assert line_of_trtexec(b"[11/23/2026-1:2:3] [I] Start parsing network model.") == {
        "phase": "Start parsing network model."
    }
    assert line_of_trtexec(b"[1/2/2026] [E] Engine could not be created \xff")["said"]
    assert line_of_trtexec(b"&&&& RUNNING TensorRT.trtexec") == {}
    assert line_of_trtexec(b"") == {}


@pytest.mark.parametrize(("number", "version"), [(100300, "10.3.0"), (110401, "11.4.1")])
def test_the_library_says_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, version: str
) -> None:
    library = _library(tmp_path, number)
    monkeypatch.setattr(trtexec, "_LIBRARIES", ("libnvinfer.so.none", str(library)))
    assert trtexec_version() == version


def test_an_old_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtexec, "_LIBRARIES", (str(_library(tmp_path, 8601)),))
    with pytest.raises(RuntimeUnavailable, match="too old"):
        trtexec_version()
    monkeypatch.setattr(trtexec, "_LIBRARIES", ("libnvinfer.so.none",))
    with pytest.raises(RuntimeUnavailable, match="cannot be loaded"):
        trtexec_version()


def test_a_library_that_does_not_load_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*command: object, timeout: float, **how: object) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(trtexec.subprocess, "run", run)
    with pytest.raises(RuntimeUnavailable, match=r"libnvinfer\.so\.11.*more than 120 s"):
        trtexec_version()


def _library(folder: Path, number: int) -> Path:
    """A library of TensorRT's one function that is asked."""
    source, library = folder / "version.c", folder / f"libnvinfer-{number}.so"
    source.write_text(f"int getInferLibVersion(void) {{ return {number}; }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library
