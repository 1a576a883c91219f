"""What all commands print alike."""

import io

import pytest
from rich.console import Console

from mpq_export.cli import console


@pytest.fixture
def log(monkeypatch):
    """stderr that is a file, and a clock that a test turns."""
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(console, "err", Console(file=stream, width=100, highlight=False))
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    return stream, clock


def test_a_log_sees_long_work_before_it_ends(log):
    stream, clock = log
    with console.TaskProgress() as progress:
        progress.start("train", 4)
        progress.note("loss 0.5")
        clock[0] = console._LOG_SECONDS - 1
        progress.advance()
        assert not stream.getvalue()
        clock[0] += 1
        progress.advance()
        assert "train" in stream.getvalue()
        assert "50%" in stream.getvalue()
        assert "loss 0.5" in stream.getvalue()
        clock[0] += 1
        progress.advance()
        assert "75%" not in stream.getvalue()
    assert "75%" in stream.getvalue()
