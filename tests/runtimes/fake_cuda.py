"""The driver of ``fake_cuda.c``, compiled; a fresh copy of its state for every test."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from mpq_export.runtimes.cuda.driver import Driver

SOURCE = Path(__file__).with_name("fake_cuda.c")
FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_numbers = itertools.count()


def compiled(folder: Path) -> Path:
    """The library; a C compiler is there wherever the CPU's kernels were compiled."""
    library = folder / "libfake_cuda.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(library)], check=True)
    return library


class FakeCuda:
    """A fake driver and what it has counted."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.path = folder / f"libcuda-{next(_numbers)}.so"  # another file is another state
        shutil.copy(library, self.path)
        self.library = ctypes.CDLL(str(self.path))
        self.library.fake_memory.restype = ctypes.c_void_p
        self.library.fake_memory.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self.library.fake_enqueue.argtypes = [ctypes.c_void_p, FUNCTION, ctypes.c_void_p]
        self.driver = Driver(self.library)
        self._kept: list[object] = []

    def count(self, what: str) -> int:
        return self.library.fake_count(what.encode())

    def refuse(self, function: str) -> None:
        self.library.fake_refuse(function.encode())

    def no_device(self) -> None:
        self.library.fake_devices(0)

    def memory(self, address: int, size: int) -> int:
        memory = self.library.fake_memory(address, size)
        assert memory, "no device address of so many bytes"
        return memory

    def enqueue(self, stream: int, function: Callable[[], None]) -> bool:
        """Put a function on a stream, as a kernel would be."""
        kept = FUNCTION(lambda _: function())
        self._kept.append(kept)
        return self.library.fake_enqueue(stream, kept, None) == 0
