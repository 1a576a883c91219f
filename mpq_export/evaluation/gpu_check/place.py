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


class Stopwatch(Protocol):
    """How long work takes on the device."""

    def ms(self, work: Callable[[], object]) -> float:
        """Milliseconds from the first of its launches to the end of the last."""


class CudaEvents:
    """The GPU's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def ms(self, work: Callable[[], object]) -> float:
        """Between two events of the current stream."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


class WallClock:
    """The processor's clock, for work that is done when it returns."""

    def ms(self, work: Callable[[], object]) -> float:
        """From begin to end."""
        started = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - started)


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
    """

    gpu: TorchGpu
    stopwatch: Stopwatch
    recorder: Callable[[], Recorder]
    emulated: bool
    compile_backend: str
    cache_bytes: int


def real_place() -> Place:
    """Torch's current GPU; raises RuntimeUnavailable where the kernels cannot be had.

    From then on cuDNN tries its algorithms for every shape, and takes the fastest.
    """
    gpu = current_gpu()
    torch.backends.cudnn.benchmark = True
    cache = torch.cuda.get_device_properties(gpu.device).L2_cache_size
    return Place(
        gpu, CudaEvents(gpu.device), lambda: CudaGraphs(gpu.device), False, "inductor", cache
    )


def emulated_place() -> Place:
    """The emulated GPU; raises RuntimeUnavailable where there is no C++ compiler."""
    gpu = emulated_gpu(emulated_library())
    return Place(gpu, WallClock(), CallsAgain, True, "eager", 1)
