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

import pytest

from mpq_export.runtimes.tensorrt.building import (
    _Reported,
    _with_timing_cache,
    builder_command,
    reporter,
)

COMMAND = """
import subprocess
builder = subprocess.Popen({builder})
print(builder.pid, flush=True)
builder.wait()
"""
PIPE_BYTES = 1 << 20
"""More than a pipe holds: once they are written, they are being read."""


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such call")
def test_a_builder_ends_with_a_command_that_is_killed() -> None:
    started = [sys.executable, "-c", COMMAND.format(builder=builder_command())]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdin is not None
        assert command.stdout is not None
        builder = Path("/proc") / command.stdout.readline().decode().strip() / "cmdline"
        command.stdin.write(b" " * PIPE_BYTES)
        command.stdin.flush()
        assert builder.read_bytes()
        command.kill()
        deadline = time.monotonic() + 20
        while builder.exists() and builder.read_bytes():  # a zombie's is empty
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
    config = Config()
    assert _with_timing_cache(config, str(file)) == file
    assert config.begun == [begun]
    assert _with_timing_cache(config, None) is None
