"""The builder's own process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpq_export.runtimes.tensorrt.building import builder_command

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
