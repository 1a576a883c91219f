"""A GPU as torch knows it, with the kernels for it; and the emulated one on the processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .device import KernelDevice
from .interface import KernelLibrary
from .library_file import gpu_library
from .torch_memory import TorchMemory

_EMULATED_MULTIPROCESSORS = 4


@dataclass(frozen=True)
class TorchGpu:
    """Where tensors lie, and what runs packed layers there."""

    device: torch.device
    kernels: KernelDevice


def current_gpu() -> TorchGpu:
    """Torch's current GPU; its kernels are compiled if need be.

    Raises:
        RuntimeUnavailable: they cannot be had; says why.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    library = KernelLibrary(gpu_library(torch.cuda.get_device_capability(device)))
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return TorchGpu(device, KernelDevice(library, TorchMemory(device), multiprocessors))


def emulated_gpu(path: Path) -> TorchGpu:
    """A library of emulated kernels on tensors of the processor: for tests."""
    device = torch.device("cpu")
    library = KernelLibrary(path)
    return TorchGpu(device, KernelDevice(library, TorchMemory(device), _EMULATED_MULTIPROCESSORS))
