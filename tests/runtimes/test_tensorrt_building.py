"""The builder's own process."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from mpq_export.runtimes.tensorrt.building import (
    Job,
    _Reported,
    _with_timing_cache,
    build_engine,
    builder_command,
    reporter,
)
from mpq_export.runtimes.tensorrt.with_parent import ending_with_parent

COMMAND = """
import subprocess
builder = subprocess.Popen({builder})
print(builder.pid, flush=True)
builder.wait()
"""
PIPE_BYTES = 1 << 20
"""More than a pipe holds: once they are written, they are being read."""


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such call")
@pytest.mark.parametrize("own", [True, False], ids=["builder", "trtexec"])
def test_a_builder_ends_with_a_command_that_is_killed(own: bool) -> None:
    other = [
        sys.executable,
        "-c",
        f"import sys, time; sys.stdin.read({PIPE_BYTES}); time.sleep(60)",
    ]
    builder = builder_command() if own else ending_with_parent(other)
    started = [sys.executable, "-c", COMMAND.format(builder=builder)]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdin is not None
        assert command.stdout is not None
        running = Path("/proc") / command.stdout.readline().decode().strip() / "cmdline"
        command.stdin.write(b" " * PIPE_BYTES)
        command.stdin.flush()
        assert running.read_bytes()
        command.kill()
        deadline = time.monotonic() + 20
        while running.exists() and running.read_bytes():  # a zombie's is empty
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Slow(io.StringIO):
    """Lets another thread in after every call."""

    def write(self, text: str) -> int:
        written = super().write(text)
        time.sleep(0.001)
        return written


def test_reports_of_several_threads_are_lines_of_their_own() -> None:
    stream = Slow()
    report = reporter(stream)
    threads = [
        threading.Thread(target=lambda n=n: [report({"phase": f"{n} {i}"}) for i in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(json.loads(line)["phase"] for line in stream.getvalue().splitlines())
    assert found == sorted(f"{n} {i}" for n in range(8) for i in range(20))


def test_what_the_plugin_logs_is_reported() -> None:
    reports: list[dict[str, object]] = []
    logger = logging.getLogger("mpq_export.runtimes.tensorrt.plugin")
    handler = _Reported(reports.append)
    logger.addHandler(handler)
    try:
        logger.info("what nobody needs")
        logger.error("%s", "down.0: it has no K")
    finally:
        logger.removeHandler(handler)
    assert reports == [{"said": "down.0: it has no K"}]


class Config:
    """Takes timing caches that begin with a word; of others TensorRT makes nothing."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes | None, ignore_mismatch: bool) -> bool:
        assert cache is not None
        assert not ignore_mismatch
        if cache == b"of another GPU":
            return False
        self.begun.append(cache)
        return True


@pytest.mark.parametrize(
    ("content", "begun"),
    [(None, b""), (b"kept", b"kept"), (b"damaged", b""), (b"of another GPU", b"")],
)
def test_a_timing_cache_that_is_none_costs_its_times_alone(
    tmp_path: Path, content: bytes | None, begun: bytes
) -> None:
    file = tmp_path / "timing.cache"
    if content is not None:
        file.write_bytes(content)
    config, said = Config(), Said()
    assert _with_timing_cache(config, str(file), said) == file
    assert config.begun == [begun]
    assert _with_timing_cache(config, None, said) is None
    assert said == []


class Said(list[dict[str, object]]):
    """Reports, kept."""

    def __call__(self, report: dict[str, object]) -> None:
        self.append(report)


def test_a_timing_cache_that_cannot_be_read_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    file, config, said = tmp_path / "timing.cache", Config(), Said()
    file.touch()
    monkeypatch.setattr(Path, "read_bytes", refused)
    _with_timing_cache(config, str(file), said)
    assert config.begun == [b""]
    assert said == [
        {"warning": f"{file} cannot be read: Permission denied. Kernels are timed anew."}
    ]


@pytest.mark.parametrize("writable", [True, False])
def test_the_plan_is_written_whatever_becomes_of_the_timing_cache(
    tmp_path: Path, writable: bool
) -> None:
    trt = MagicMock()
    trt.ILogger = trt.IProgressMonitor = type("Base", (), {})
    trt.Builder.return_value.build_serialized_network.return_value = b"plan"
    config = trt.Builder.return_value.create_builder_config.return_value
    config.get_timing_cache.return_value.serialize.return_value = b"measured"
    cache, plan, said = tmp_path / "cache" / "timing.cache", tmp_path / "plan", Said()
    if not writable:
        cache.parent.touch()
    build_engine(trt, Job("tensorrt", "m", str(plan), {}, [], False, None, str(cache)), said)
    assert plan.read_bytes() == b"plan"
    if writable:
        assert (cache.read_bytes(), said) == (b"measured", [])
    else:
        (report,) = said
        assert "The next build is not faster" in str(report["warning"])
