"""Where the host code that plans launches comes from: installed, or of a checkout compiled.

It must be of the same sources as device code. In a checkout these change without an installation.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ...errors import RuntimeUnavailable
from .cache_folder import cache_folder
from .compiled import by_script, program
from .sources import in_checkout, kernel_sources

_INSTALLED = "mpq_export/native/libmpq_kernel_plans.so"


def plan_library(folder: Path | None = None) -> Path:
    """The library.

    Args:
        folder: where a checkout's is kept; the user's cache if left out.

    Raises:
        RuntimeUnavailable: there is none; says why.
    """
    if (reason := why_no_plans()) is not None:
        raise RuntimeUnavailable(
            "The part of the GPU kernels that plans launches is not there",
            why=reason,
            fix="Install a C++ compiler (such as g++) and run pip install again, with -v to see it",
        )
    if not in_checkout():
        return installed_plans()
    sources, cxx = kernel_sources(), program("CXX", "g++")
    assert cxx is not None
    return by_script(
        sources / "build_plans.sh",
        [],
        sources,
        cxx,
        folder or cache_folder(),
        "kernel-plans",
        "Compiling what plans launches of the GPU kernels: once, some seconds",
    ).file()


def why_no_plans() -> str | None:
    """Why the library cannot be had, or None. Nothing is compiled."""
    if in_checkout():
        if program("CXX", "g++") is None:
            return "the checkout's is compiled by a C++ compiler, and none was found"
        return None
    if not installed_plans().is_file():
        return "the package was installed without it: no C++17 compiler was found, or it failed"
    return None


def installed_plans() -> Path:
    """Where installing the package puts the library."""
    try:
        return Path(str(distribution("mpq-export").locate_file(_INSTALLED)))
    except PackageNotFoundError:
        return Path(_INSTALLED)
