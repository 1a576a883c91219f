"""Where the kernels' library comes from: named, or compiled by nvcc on first use and kept."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import RuntimeUnavailable
from .cache_folder import cache_folder
from .compiled import Kept, by_script, program
from .sources import kernel_sources

LIBRARY_VARIABLE = "MPQ_GPU_KERNELS"
"""Names a library that ``plugins/kernels/build.sh`` has made, in the place of compiling one."""


def named_library() -> Path | None:
    """What the variable names, if it is set.

    Raises:
        RuntimeUnavailable: it names no file.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if not named:
        return None
    if not Path(named).is_file():
        raise RuntimeUnavailable(
            "There is no such library of GPU kernels",
            where=f"{LIBRARY_VARIABLE}={named}",
            fix="Name one that plugins/kernels/build.sh has made, or unset the variable",
        )
    return Path(named).absolute()  # a bare name is looked for where libraries are, not here


def nvcc_program() -> Path | None:
    """nvcc, on the path or where CUDA is usually installed; ``NVCC`` names another."""
    return program("NVCC", "nvcc")


def nvcc_library(nvcc: Path, capability: tuple[int, int]) -> Kept:
    """What nvcc makes for GPUs of this compute capability.

    Raises:
        RuntimeUnavailable: there are no sources, or no place to keep it.
    """
    sources, folder = kernel_sources(), cache_folder()
    saying = (
        f"Compiling the GPU kernels for compute capability {'.'.join(map(str, capability))}: "
        f"once, about half a minute; the library is kept in {folder}"
    )
    architecture = "".join(map(str, capability))
    script, stem = sources / "build.sh", f"kernels-sm{architecture}"
    return by_script(script, [architecture], sources, nvcc, folder, stem, saying)


def emulated_library(kernels: Path | None = None, folder: Path | None = None) -> Path:
    """The same kernels for the processor, compiled by the C++ compiler: for tests, not for speed.

    Raises:
        RuntimeUnavailable: there is no compiler, or it failed.
    """
    sources = kernels or kernel_sources()
    cxx = program("CXX", "g++")
    if cxx is None:
        raise RuntimeUnavailable("Emulating the GPU kernels needs g++, which was not found")
    kept = by_script(
        sources / "emulation" / "build.sh",
        [],
        sources,
        cxx,
        folder or cache_folder(),
        "emulated-kernels",
        "Compiling the GPU kernels for the emulated GPU: once, some seconds",
    )
    return kept.file()
