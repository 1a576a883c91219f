"""Which kernels the plugin is given."""

from __future__ import annotations

from types import ModuleType

from ..cuda.driver import Gpu, gpu_here
from ..gpu_kernels.choice import gpu_kernels
from ..gpu_kernels.driver import Gpu as KernelGpu
from ..gpu_kernels.interface import KernelLibrary, Kernels
from ..gpu_kernels.library_file import emulated_library
from .plugin import register_plugins

UNKNOWN_MULTIPROCESSORS = 32
"""Of a GPU that is not here."""


def kernels_for_running(gpu: Gpu) -> Kernels:
    """Of this GPU; raises RuntimeUnavailable where they cannot be had."""
    return gpu_kernels(KernelGpu(0, gpu.capability, gpu.multiprocessors))


def kernels_for_building() -> Kernels:
    """Of the GPU that is here, since TensorRT may time them; without one those for the processor,
    which are only asked for sizes.

    Raises:
        RuntimeUnavailable: they cannot be had.
    """
    gpu = gpu_here()
    return KernelLibrary(emulated_library()) if isinstance(gpu, str) else kernels_for_running(gpu)


def register_for_building(trt: ModuleType) -> None:
    """Make the plugin known to a module, for whatever GPU is here; raises as the above."""
    gpu = gpu_here()
    count = UNKNOWN_MULTIPROCESSORS if isinstance(gpu, str) else gpu.multiprocessors
    register_plugins(trt, kernels_for_building(), count)
