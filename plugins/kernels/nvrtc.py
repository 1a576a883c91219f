"""The kernels as NVRTC compiles them: from a string, without nvcc and without any header of CUDA's.

    python plugins/kernels/nvrtc.py FOLDER [ARCHITECTURE]

writes a cubin and the PTX of each source file, for sm_87 unless told otherwise. What is in a cubin
is launched through CUDA's driver as ``mpq_plan_quantize`` and ``mpq_plan_multiply`` say. NVRTC
comes with CUDA, or from PyPI: ``nvidia-cuda-nvrtc-cu12==12.6.*`` is JetPack 6's.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import toolchain

HERE = Path(__file__).parent
SOURCES = sorted((HERE / "src").glob("*.cu"))


class NvrtcError(Exception):
    """NVRTC, or what it says of a source."""


@dataclass(frozen=True)
class Compiled:
    """One source file for one architecture.

    Attributes:
        cubin: what GPUs run.
        ptx: what it was made of.
        log: what NVRTC and ptxas said, registers and spills among it.
    """

    cubin: bytes
    ptx: str
    log: str


@dataclass(frozen=True)
class Nvrtc:
    """A library of NVRTC's.

    Attributes:
        library: libnvrtc, loaded.
    """

    library: ctypes.CDLL

    @classmethod
    def load(cls, path: Path) -> Nvrtc:
        """Load ``libnvrtc.so.*``; OSError if it cannot be."""
        library = ctypes.CDLL(str(path))
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return cls(library)

    @property
    def version(self) -> tuple[int, int]:
        """Of CUDA."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def compile(self, source: Path, architecture: int) -> Compiled:
        """Compile a source file, whose headers lie beside it.

        Raises:
            NvrtcError: with the compiler's words, if it does not compile.
        """
        flags = (HERE / "device.flags").read_text(encoding="utf-8").split()
        flags += [f"--gpu-architecture=sm_{architecture}", f"--include-path={source.parent}"]
        flags += ["--ptxas-options=-v"]
        options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        program = ctypes.c_void_p()
        text, name = source.read_bytes(), source.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, name, 0, None, None)
        try:
            status = self.library.nvrtcCompileProgram(program, len(flags), options)
            log = self._result("ProgramLog", program).decode().rstrip("\0")
            if status != 0:
                raise NvrtcError(log)
            ptx = self._result("PTX", program).decode().rstrip("\0")
            return Compiled(self._result("CUBIN", program), ptx, log)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _result(self, kind: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        result = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{kind}", program, result)
        return result.raw

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self.library, function)(*arguments)
        if status != 0:
            text = self.library.nvrtcGetErrorString(status)
            raise NvrtcError(f"{function}: {text.decode()}")


def main(arguments: list[str]) -> None:
    """Compile all sources into a folder."""
    folder, architecture = Path(arguments[0]), int((*arguments[1:], "87")[0])
    path = toolchain.nvrtc_library()
    if path is None:
        sys.exit("there is no NVRTC of CUDA 12 (make gpu-tools)")
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        compiled = Nvrtc.load(path).compile(source, architecture)
        (folder / f"{source.stem}.cubin").write_bytes(compiled.cubin)
        (folder / f"{source.stem}.ptx").write_text(compiled.ptx, encoding="utf-8")
        print(compiled.log)


if __name__ == "__main__":
    main(sys.argv[1:])
