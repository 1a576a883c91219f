"""Where the kernels' library comes from: named, or compiled by nvcc on first use and kept."""

from __future__ import annotations

import os
import shutil
import stat
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ...errors import RuntimeUnavailable
from .compiled import compiled_library, search_path

LIBRARY_VARIABLE = "MPQ_GPU_KERNELS"
"""Names a library that ``plugins/kernels/build.sh`` has made, in the place of compiling one."""
LEAST_CAPABILITY = (8, 0)
_CHECKOUT = Path(__file__).parents[3] / "plugins" / "kernels"
_INSTALLED = "mpq_export/kernels"


def kernel_sources() -> Path:
    """The folder of ``build.sh``: of the checkout, or of the installed package.

    Raises:
        RuntimeUnavailable: it is in neither.
    """
    if (_CHECKOUT / "build.sh").is_file():
        return _CHECKOUT
    try:
        installed = Path(str(distribution("mpq-export").locate_file(_INSTALLED)))
    except PackageNotFoundError:
        installed = _CHECKOUT
    if not (installed / "build.sh").is_file():
        raise RuntimeUnavailable("The GPU kernels' sources are not installed", where=installed)
    return installed


def cache_folder() -> Path:
    """Where compiled libraries are kept: of the user, as the XDG specification says.

    Raises:
        RuntimeUnavailable: the user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # the specification wants others ignored
        return named / "mpq-export"
    try:
        return Path.home() / ".cache" / "mpq-export"
    except RuntimeError as error:
        raise RuntimeUnavailable(
            "There is no place to keep the GPU kernels' library",
            why=f"XDG_CACHE_HOME is not set, and there is no home: {error}",
            fix="Set XDG_CACHE_HOME",
        ) from error


def own_cache_folder() -> Path:
    """:func:`cache_folder`, made if need be.

    Raises:
        RuntimeUnavailable: there is none, or others could put a library there, whose name they can
            foresee and which would be loaded.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise RuntimeUnavailable(
            "The GPU kernels' library cannot be kept",
            where=folder,
            why=str(error.strerror or error),
        ) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise RuntimeUnavailable(
            "The GPU kernels' library is not kept where others can write",
            where=folder,
            why=f"{folder} is another user's, or all can write to it",
            fix="Remove it, or set XDG_CACHE_HOME to a folder of this user's",
        )
    return folder


def compiler() -> Path | None:
    """nvcc, on the path or where CUDA is usually installed; ``NVCC`` names another."""
    return _program("NVCC", "nvcc")


def _program(variable: str, usual: str) -> Path | None:
    found = shutil.which(os.environ.get(variable) or usual, path=search_path())
    return None if found is None else Path(found)


def gpu_library(capability: tuple[int, int]) -> Path:
    """The library for a GPU of this compute capability.

    Raises:
        RuntimeUnavailable: there is none and none can be compiled; says why and what to do.
    """
    if named := os.environ.get(LIBRARY_VARIABLE):
        if not Path(named).is_file():
            raise RuntimeUnavailable(
                "There is no such library of GPU kernels",
                where=f"{LIBRARY_VARIABLE}={named}",
                fix="Name one that plugins/kernels/build.sh has made, or unset the variable",
            )
        return Path(named)
    version = ".".join(map(str, capability))
    if capability < LEAST_CAPABILITY:
        raise RuntimeUnavailable(
            "The GPU kernels do not run on this GPU",
            why=f"Its compute capability is {version}; they need 8.0 or newer",
        )
    nvcc = compiler()
    if nvcc is None:
        raise RuntimeUnavailable(
            "The GPU kernels are not compiled",
            why="There is a GPU but no compiler for it: nvcc was not found, and no library named",
            fix=f"Install CUDA's compiler; or build the library elsewhere with "
            f"plugins/kernels/build.sh and name it with {LIBRARY_VARIABLE}",
        )
    sources, folder = kernel_sources(), own_cache_folder()
    saying = (
        f"Compiling the GPU kernels for compute capability {version}: once, about half a minute; "
        f"the library is kept in {folder}"
    )
    architecture = "".join(map(str, capability))
    script = sources / "build.sh"
    return compiled_library(
        script, [architecture], sources, nvcc, folder, f"kernels-sm{architecture}", saying
    )


def emulated_library(kernels: Path | None = None, folder: Path | None = None) -> Path:
    """The same kernels for the processor, compiled by the C++ compiler: for tests, not for speed.

    Raises:
        RuntimeUnavailable: there is no compiler, or it failed.
    """
    sources = kernels or kernel_sources()
    cxx = _program("CXX", "g++")
    if cxx is None:
        raise RuntimeUnavailable("Emulating the GPU kernels needs g++, which was not found")
    return compiled_library(
        sources / "emulation" / "build.sh",
        [],
        sources,
        cxx,
        folder or own_cache_folder(),
        "emulated-kernels",
        "Compiling the GPU kernels for the emulated GPU: once, some seconds",
    )
