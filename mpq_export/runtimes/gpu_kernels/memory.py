"""Memory that kernels read and write: the emulated GPU's here, torch's in ``torch_memory``."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .interface import KernelLibrary


class Buffer(Protocol):
    """Bytes on a device; they live as long as this object."""

    @property
    def address(self) -> int:
        """Of the first byte, aligned for any type."""

    def read(self) -> bytes:
        """What it holds, once all launches so far are done."""


class Memory(Protocol):
    """Where buffers come from."""

    def allocate(self, size: int) -> Buffer:
        """That many bytes, of any content."""

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A copy of an array, which no kernel may write to."""


class EmulatedBuffer:
    """What is read or written beside it kills the process; so is writing after :meth:`fill`."""

    def __init__(self, library: KernelLibrary, size: int) -> None:
        self._library, self._size = library.functions, size
        self._handle = ctypes.c_void_p(self._library.mpq_emulation_allocate(ctypes.c_size_t(size)))
        self.address: int = self._library.mpq_emulation_address(self._handle)

    def __del__(self) -> None:
        self._library.mpq_emulation_free(self._handle)

    def fill(self, array: NDArray[Any]) -> EmulatedBuffer:
        """Copy an array in and forbid writing."""
        contiguous = np.ascontiguousarray(array)
        ctypes.memmove(self.address, contiguous.ctypes.data, self._size)
        self._library.mpq_emulation_forbid_writing(self._handle)
        return self

    def read(self) -> bytes:
        """What it holds."""
        return ctypes.string_at(self.address, self._size)


class EmulatedMemory:
    """The memory of the GPU that a library emulates. New buffers hold noise."""

    def __init__(self, library: KernelLibrary) -> None:
        self._library = library
        library.functions.mpq_emulation_allocate.restype = ctypes.c_void_p
        library.functions.mpq_emulation_address.restype = ctypes.c_void_p

    def allocate(self, size: int) -> EmulatedBuffer:
        """Bytes that begin as noise."""
        return EmulatedBuffer(self._library, size)

    def upload(self, array: NDArray[Any]) -> EmulatedBuffer:
        """A copy behind a page that is closed for writing."""
        return EmulatedBuffer(self._library, array.nbytes).fill(array)
