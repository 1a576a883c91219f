"""A function of tensors, recorded once for every set of shapes and replayed: CUDA graphs."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import RuntimeUnavailable

Tensors = Mapping[str, torch.Tensor]
TensorFunction = Callable[[Tensors], torch.Tensor]
_WARM_UP_CALLS = 2
_MOST_RECORDINGS = 8
_MOST_CHARACTERS = 200
_GOES_ON_SINCE = (2, 13)
"""Of torch: until then its allocator never leaves a capture that could not be ended (pytorch pull
request 180395)."""


@dataclass(frozen=True)
class Recording:
    """A function's work: ``replay`` does it again, from where its inputs lie into ``output``.

    Recordings of one recorder share memory: an output holds until the next replay of any of them.
    """

    replay: Callable[[], None]
    output: torch.Tensor


class Recorder(Protocol):
    """Records what a function without arguments launches."""

    def warm_up(self, function: Callable[[], torch.Tensor]) -> None:
        """Run it as it will be recorded, so that libraries allocate and choose before."""

    def record(self, function: Callable[[], torch.Tensor]) -> Recording:
        """Record it; raises RuntimeError where it does what cannot be recorded."""


class CudaGraphs:
    """CUDA graphs, whose intermediate tensors lie in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], torch.Tensor]) -> None:
        """On the stream that records."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_CALLS):
                function()
        current.wait_stream(self._stream)

    def record(self, function: Callable[[], torch.Tensor]) -> Recording:
        """Capture one call.

        Raises:
            RuntimeError: it does what cannot be captured.
            RuntimeUnavailable: so it does, and this torch cannot go on after that.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                output = function()
        except BaseException as error:
            # A capture that cannot be ended leaves its stream the current one.
            torch.cuda.set_stream(current)
            if isinstance(error, RuntimeError) and not _goes_on_after_failures(torch.__version__):
                raise RuntimeUnavailable(
                    "A denoising step cannot be recorded as a CUDA graph",
                    why=f"{_first_line(error)}; and torch {torch.__version__} keeps the memory of "
                    "a recording that failed, so nothing else runs in this process",
                    fix=f"Install torch {'.'.join(map(str, _GOES_ON_SINCE))} or newer, which goes "
                    "on operator by operator",
                ) from error
            raise
        return Recording(graph.replay, output)


@dataclass(frozen=True)
class _Replay:
    inputs: Tensors
    recording: Recording


class Replayed:
    """Calls a function through recordings; by itself once one of them could not be made.

    Attributes:
        failure: why recording failed, in a line; None as long as it did not.
    """

    def __init__(self, function: TensorFunction, recorder: Recorder) -> None:
        self._function, self._recorder = function, recorder
        self._replays: OrderedDict[tuple[object, ...], _Replay] = OrderedDict()
        self.failure: str | None = None

    def __call__(self, inputs: Tensors) -> torch.Tensor:
        """The function's output, a tensor of its own; inputs are on the device."""
        if self.failure is not None:
            return self._function(inputs)
        key = tuple((name, value.shape, value.dtype) for name, value in sorted(inputs.items()))
        if key not in self._replays:
            fixed = {name: value.clone() for name, value in inputs.items()}
            # What is wrong with the call itself shows here, not as a failed recording.
            self._recorder.warm_up(lambda: self._function(fixed))
            try:
                recording = self._recorder.record(lambda: self._function(fixed))
            except RuntimeError as error:
                self.failure = _first_line(error)
                self._replays.clear()
                return self._function(inputs)
            self._replays[key] = _Replay(fixed, recording)
            if len(self._replays) > _MOST_RECORDINGS:
                self._replays.popitem(last=False)
        self._replays.move_to_end(key)
        replay = self._replays[key]
        for name, value in inputs.items():
            replay.inputs[name].copy_(value)
        replay.recording.replay()
        return replay.recording.output.clone()


def _first_line(error: BaseException) -> str:
    """Of its message, cut to what fits a line."""
    return str(error).partition("\n")[0][:_MOST_CHARACTERS]


def _goes_on_after_failures(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) >= _GOES_ON_SINCE
