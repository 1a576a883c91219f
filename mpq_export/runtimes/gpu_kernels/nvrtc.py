"""NVRTC, CUDA's compiler as a library: found, and what it makes of a source file.

Torch's CUDA wheels bring it, as CUDA itself does. A program that uses it needs no nvcc, no C++
compiler and no header of CUDA's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RuntimeUnavailable

_PACKAGES = ("nvidia/cu[0-9]*/lib/libnvrtc.so.*", "nvidia/cuda_nvrtc/lib/libnvrtc.so.*")
_SYSTEM = ("usr/local/cuda/lib64/libnvrtc.so.*", "opt/cuda/lib64/libnvrtc.so.*")
_LINKED = ("libnvrtc.so.13", "libnvrtc.so.12")
"""What the linker may know; the newest first."""


class NvrtcError(RuntimeUnavailable):
    """NVRTC, or what it says of a source."""


@dataclass(frozen=True)
class Compiled:
    """One source file for one target.

    Attributes:
        cubin: what GPUs run; empty where the target is a virtual one.
        ptx: what drivers compile for GPUs that are newer.
        log: what NVRTC and ptxas said, registers and spills among it.
    """

    cubin: bytes
    ptx: bytes
    log: str

    @property
    def image(self) -> bytes:
        """What a driver loads."""
        return self.cubin or self.ptx


@dataclass(frozen=True)
class Nvrtc:
    """A library of NVRTC's.

    Attributes:
        path: its file, absolute, or the name that the linker knows it by.
        library: it, loaded.
    """

    path: str
    library: ctypes.CDLL

    @classmethod
    def load(cls, path: str | Path) -> Nvrtc:
        """Load ``libnvrtc.so.*``; OSError if it cannot be, or is something else."""
        if os.path.isabs(path):
            # Wheels of CUDA 13 do not say where their own second half lies.
            for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins))
        library = ctypes.CDLL(str(path))
        try:
            library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except AttributeError as error:
            raise OSError(f"{path} is not NVRTC") from error
        return cls(str(path), library)

    @property
    def version(self) -> tuple[int, int]:
        """Of CUDA."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    @property
    def architectures(self) -> tuple[int, ...]:
        """What it compiles for: 87 for sm_87; ascending."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return tuple(sorted(found))

    def compile(self, source: Path, flags: Sequence[str], target: str) -> Compiled:
        """Compile a source file, whose headers lie beside it.

        Args:
            source: the file.
            flags: as for every compiler of device code.
            target: such as ``sm_87``, or ``compute_87`` for PTX alone.

        Raises:
            NvrtcError: with the compiler's words, if it does not compile.
        """
        own = (f"--gpu-architecture={target}", f"--include-path={source.parent}")
        options = [*flags, *own, "--ptxas-options=-v"]
        program = ctypes.c_void_p()
        text, name = source.read_bytes(), source.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, name, 0, None, None)
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self.library.nvrtcCompileProgram(program, len(options), given)
            log = self._result("ProgramLog", program).decode(errors="replace").rstrip("\0")
            if status != 0:
                raise NvrtcError(f"NVRTC does not compile {source.name}", why=log.strip())
            return Compiled(self._result("CUBIN", program), self._result("PTX", program), log)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _result(self, kind: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        result = ctypes.create_string_buffer(max(size.value, 1))
        if size.value:
            self._call(f"nvrtcGet{kind}", program, result)
        return result.raw[: size.value]

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self.library, function)(*arguments)
        if status != 0:
            text = self.library.nvrtcGetErrorString(status)
            raise NvrtcError("NVRTC refused", where=function, why=text.decode())


def nvrtc_libraries() -> Iterator[Nvrtc]:
    """All that can be loaded: of Python's packages, of an installed CUDA, of the linker."""
    for path in _paths():
        try:
            yield Nvrtc.load(path)
        except OSError:
            continue


def _paths() -> Iterator[str | Path]:
    for folder in filter(os.path.isabs, sys.path):
        for pattern in _PACKAGES:
            yield from sorted(Path(folder).glob(pattern), reverse=True)
    for pattern in _SYSTEM:
        yield from sorted(Path("/").glob(pattern), reverse=True)
    yield from _LINKED
