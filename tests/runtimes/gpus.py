"""The emulated GPU as torch's processor device: the operator and the denoiser without a GPU."""

from __future__ import annotations

import torch
from plugins.kernels.emulated import emulated_kernels

from mpq_export.runtimes.gpu_denoiser import TorchGpu
from mpq_export.runtimes.gpu_kernels.device import KernelDevice
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary
from mpq_export.runtimes.gpu_kernels.torch_memory import TorchMemory


def processor_gpu(multiprocessors: int = 4) -> TorchGpu:
    """Emulated kernels on tensors of the processor."""
    cpu = torch.device("cpu")
    library = KernelLibrary(emulated_kernels())
    return TorchGpu(cpu, KernelDevice(library, TorchMemory(cpu), multiprocessors))
