"""The kernels on an emulated GPU, built by the C++ compiler."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.gpu_kernels.device import KernelDevice
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary
from mpq_export.runtimes.gpu_kernels.library_file import emulated_library, kernel_sources
from mpq_export.runtimes.gpu_kernels.memory import EmulatedMemory

KERNELS = kernel_sources()
BUILDS = Path(__file__).parents[3] / "build" / "kernels"


def emulated_kernels() -> Path:
    """The library, kept between runs; a test without a compiler is skipped, but not in CI."""
    import pytest

    try:
        return emulated_library(folder=BUILDS)
    except RuntimeUnavailable as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


@dataclass(frozen=True)
class EmulatedGpu:
    """A GPU whose memory is closely watched.

    Attributes:
        device: what layers are prepared for.
        library: the kernels.
    """

    device: KernelDevice
    library: KernelLibrary

    @classmethod
    def of(cls, path: Path, multiprocessors: int = 1) -> EmulatedGpu:
        """Load a library."""
        library = KernelLibrary(path)
        library.functions.mpq_emulation_seed.argtypes = [ctypes.c_uint64]
        return cls(KernelDevice(library, EmulatedMemory(library), multiprocessors), library)

    @property
    def functions(self) -> ctypes.CDLL:
        """The library's, the emulation's own among them."""
        return self.library.functions

    def shuffle(self, seed: int) -> None:
        """From now on threads take turns as the seed says."""
        self.functions.mpq_emulation_seed(seed)
