"""Where the check runs: a GPU, or the emulated one with what stands for its clock and graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ...runtimes.gpu_kernels.library_file import emulated_library
from ...runtimes.gpu_kernels.torch_gpu import TorchGpu, current_gpu, emulated_gpu
from ...runtimes.replayed import CudaGraphs, Recorder, Recording

_SHORTEST_PAUSE, _LONGEST_PAUSE = 1 << 21, 1 << 25
"""Cycles of the GPU's clock: about a millisecond, and about twenty."""
_EMULATED_BYTES = 1 << 16


class Stopwatch(Protocol):
    """How long work takes on the device."""

    def ms(self, work: Callable[[], object]) -> float:
        """Milliseconds from when the first of its launches is asked for to the end of the last."""

    def queued_ms(self, work: Callable[[], object]) -> float:
        """As :meth:`ms`, but of work that waits in a queue: asking for it costs nothing.

        For what takes hardly longer than asking.
        """


class CudaEvents:
    """The GPU's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pause = device, _SHORTEST_PAUSE

    def ms(self, work: Callable[[], object]) -> float:
        """Between two events of the current stream."""
        begin, end = self._asked(work, 0)
        end.synchronize()
        return float(begin.elapsed_time(end))

    def queued_ms(self, work: Callable[[], object]) -> float:
        """Behind a pause of the GPU's that is longer than asking, or as long as pauses get."""
        while True:
            begin, end = self._asked(work, self._pause)
            begun = begin.query()
            end.synchronize()
            if not begun or self._pause >= _LONGEST_PAUSE:
                return float(begin.elapsed_time(end))
            self._pause *= 2

    def _asked(
        self, work: Callable[[], object], pause: int
    ) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Events before and after work that has been asked for, behind so many cycles."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        if pause:
            torch.cuda._sleep(pause)
        begin.record()
        work()
        end.record()
        return begin, end


class WallClock:
    """The processor's clock, for work that is done when it returns."""

    def ms(self, work: Callable[[], object]) -> float:
        """From begin to end."""
        started = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - started)

    def queued_ms(self, work: Callable[[], object]) -> float:
        """As :meth:`ms`: asking for it is doing it."""
        return self.ms(work)


class CallsAgain:
    """The recorder of the emulated GPU: a replay is another call."""

    def warm_up(self, function: Callable[[], torch.Tensor]) -> None:
        """Nothing is allocated or chosen."""

    def record(self, function: Callable[[], torch.Tensor]) -> Recording:
        """Call it now, and into the same output again."""
        output = function()

        def replay() -> None:
            output.copy_(function())

        return Recording(replay, output)


@dataclass(frozen=True)
class Place:
    """A GPU, real or emulated.

    Attributes:
        gpu: the device and its kernels.
        stopwatch: its clock.
        recorder: makes its graphs; a new one has a memory pool of its own.
        emulated: whether times mean nothing.
        compile_backend: of ``torch.compile``.
        cache_bytes: of its last cache; weights of a product that are read in turns exceed it.
        free_bytes: of its memory that nobody has taken yet.
    """

    gpu: TorchGpu
    stopwatch: Stopwatch
    recorder: Callable[[], Recorder]
    emulated: bool
    compile_backend: str
    cache_bytes: int
    free_bytes: Callable[[], int]


def real_place() -> Place:
    """Torch's current GPU; raises RuntimeUnavailable where the kernels cannot be had.

    From then on cuDNN tries its algorithms for every shape, and takes the fastest.
    """
    gpu = current_gpu()
    torch.backends.cudnn.benchmark = True
    cache = torch.cuda.get_device_properties(gpu.device).L2_cache_size
    return Place(
        gpu,
        CudaEvents(gpu.device),
        lambda: CudaGraphs(gpu.device),
        emulated=False,
        compile_backend="inductor",
        cache_bytes=cache,
        free_bytes=lambda: torch.cuda.mem_get_info(gpu.device)[0],
    )


def emulated_place() -> Place:
    """The emulated GPU; raises RuntimeUnavailable where there is no C++ compiler."""
    gpu = emulated_gpu(emulated_library())
    return Place(
        gpu,
        WallClock(),
        CallsAgain,
        emulated=True,
        compile_backend="eager",
        cache_bytes=1,
        free_bytes=lambda: _EMULATED_BYTES,
    )
