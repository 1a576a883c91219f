"""A GPU as torch knows it, with the kernels for it; and the emulated one on the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import RuntimeUnavailable
from ..cuda.gpu import Gpu
from .choice import gpu_kernels
from .device import KernelDevice
from .interface import KernelLibrary, Kernels
from .torch_memory import TorchMemory

_EMULATED_MULTIPROCESSORS = 4


@dataclass(frozen=True)
class TorchGpu:
    """Where tensors lie, and what runs packed layers there."""

    device: torch.device
    kernels: KernelDevice


def current_gpu(kernels_of: Callable[[Gpu], Kernels] = gpu_kernels) -> TorchGpu:
    """Torch's current GPU; its kernels are compiled if need be.

    Args:
        kernels_of: the kernels for a GPU.

    Raises:
        RuntimeUnavailable: they cannot be had; says why.
    """
    gpu = described_gpu()
    device = torch.device("cuda", gpu.ordinal)
    kernels = kernels_of(gpu)
    return TorchGpu(device, KernelDevice(kernels, TorchMemory(device), gpu.multiprocessors))


def described_gpu() -> Gpu:
    """Torch's current GPU.

    Raises:
        RuntimeUnavailable: CUDA does not start, although torch saw a GPU.
    """
    try:
        ordinal = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(ordinal)
    except RuntimeError as error:
        raise RuntimeUnavailable(
            "The GPU cannot be used",
            why=f"CUDA does not start: {str(error).partition(chr(10))[0]}",
            fix="Run nvidia-smi: the driver may be another than the one that is loaded, or the GPU "
            "may be lost or taken",
        ) from error
    capability = (properties.major, properties.minor)
    return Gpu(ordinal, properties.name, capability, properties.multi_processor_count)


def emulated_gpu(path: Path) -> TorchGpu:
    """A library of emulated kernels on tensors of the processor: for tests."""
    device = torch.device("cpu")
    library = KernelLibrary(path, "for the processor")
    return TorchGpu(device, KernelDevice(library, TorchMemory(device), _EMULATED_MULTIPROCESSORS))
