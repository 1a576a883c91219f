"""The logic of recordings, with recorders that need no GPU."""

from __future__ import annotations

import pytest
import torch

from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes import replayed as module
from mpq_export.runtimes.replayed import CudaGraphs, Recording, Replayed


class Recorder:
    """Remembers the function; a replay calls it again and writes where the first output lies.

    As in one pool of memory, a replay of one recording spoils the outputs of all others.
    """

    def __init__(self, failure: str | None = None) -> None:
        self.failure, self.warmed, self.replays = failure, 0, 0
        self.outputs: list[torch.Tensor] = []

    def warm_up(self, function) -> None:
        self.warmed += 1
        function()

    def record(self, function) -> Recording:
        if self.failure is not None:
            raise RuntimeError(self.failure)
        output = function()
        self.outputs.append(output)

        def replay() -> None:
            self.replays += 1
            for other in self.outputs:
                other.fill_(float("nan"))
            output.copy_(function())

        return Recording(replay, output)


def scaled(inputs):
    return inputs["x"] * inputs["factor"]


def inputs_of(size: int, factor: float):
    return {"x": torch.arange(size).float(), "factor": torch.tensor([factor])}


def test_every_shape_is_recorded_once_and_replayed_on_its_own_inputs():
    recorder = Recorder()
    call = Replayed(scaled, recorder)
    first = call(inputs_of(3, 2.0))
    second = call(inputs_of(5, 3.0))
    third = call(inputs_of(3, 10.0))
    assert (recorder.warmed, len(recorder.outputs), recorder.replays) == (2, 2, 3)
    for found, (size, factor) in zip(
        (first, second, third), ((3, 2), (5, 3), (3, 10)), strict=True
    ):
        assert torch.equal(found, torch.arange(size).float() * factor)
    assert call.failure is None


def test_inputs_of_the_caller_are_left_alone():
    call = Replayed(scaled, Recorder())
    given = inputs_of(3, 2.0)
    call(given)
    call(inputs_of(3, 7.0))
    assert torch.equal(given["x"], torch.arange(3).float())
    assert given["factor"].item() == 2.0


def test_types_count_as_shapes_do():
    recorder = Recorder()
    call = Replayed(scaled, recorder)
    for dtype in (torch.float32, torch.float64):
        assert call({"x": torch.ones(2, dtype=dtype), "factor": torch.ones(1)}).dtype == dtype
    assert len(recorder.outputs) == 2


def test_old_shapes_make_room(monkeypatch):
    monkeypatch.setattr(module, "_MOST_RECORDINGS", 2)
    recorder = Recorder()
    call = Replayed(scaled, recorder)
    for size in (1, 2, 1, 3, 1, 2):
        call(inputs_of(size, 1.0))
    assert recorder.warmed == 4  # 1, 2, 3, and 2 again


def test_what_cannot_be_recorded_runs_by_itself_and_says_why():
    recorder = Recorder("operation not permitted when stream is capturing\nmore")
    call = Replayed(scaled, recorder)
    for factor in (2.0, 3.0):
        assert torch.equal(call(inputs_of(3, factor)), torch.arange(3).float() * factor)
    assert call.failure == "operation not permitted when stream is capturing"
    assert recorder.warmed == 1


@pytest.fixture
def failing_capture(monkeypatch):
    """A torch whose captures cannot be ended; its streams, the last being the current one."""
    streams = ["the caller's"]

    class Graph:
        def capture_begin(self, *_, **__):
            pass

        def capture_end(self):
            raise RuntimeError("operation failed due to a previous error during capture\nmore")

    class InStream:
        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            streams.append(self._stream)

        def __exit__(self, *_):
            streams.pop()

    stands_in = {
        "Stream": lambda _device: "of recordings",
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": Graph,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "stream": InStream,
        "current_stream": lambda _device: streams[-1],
        "set_stream": streams.append,
    }
    for name, value in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    return streams


def test_a_capture_that_cannot_be_ended_leaves_no_stream_behind(failing_capture):
    """Torch's own context does: it ends the capture before it gives the stream back."""
    with pytest.raises(RuntimeError, match="during capture"):
        CudaGraphs(torch.device("cuda")).record(lambda: torch.ones(1))
    assert failing_capture[-1] == "the caller's"


@pytest.mark.parametrize(
    ("version", "goes_on"),
    [("2.9.1+cu128", False), ("2.12.1", False), ("2.13.0a0+git1", True), ("2.13.0+cu130", True),
     ("3.0.0", True)],
)  # fmt: skip
def test_a_torch_that_cannot_go_on_after_a_failed_capture_is_not_asked_to(
    failing_capture, monkeypatch, version, goes_on
):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(CudaGraphs, "warm_up", lambda *_: None)
    call = Replayed(scaled, CudaGraphs(torch.device("cuda")))
    if goes_on:
        assert torch.equal(call(inputs_of(3, 2.0)), 2 * torch.arange(3).float())
        assert call.failure == "operation failed due to a previous error during capture"
        return
    with pytest.raises(RuntimeUnavailable, match=r"during capture; and torch 2\..*torch 2\.13 or"):
        call(inputs_of(3, 2.0))
    assert failing_capture[-1] == "the caller's"


def test_mistakes_of_the_call_are_no_failed_recordings():
    call = Replayed(scaled, Recorder())
    with pytest.raises(RuntimeError, match="size"):
        call({"x": torch.ones(3), "factor": torch.ones(2)})
    assert call.failure is None
