"""CUDA's tools: on the path, where `make gpu-tools` puts them, or among Python's packages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "gpu-tools"
"""Of `make gpu-tools`."""


def program(name: str) -> Path | None:
    """A program of CUDA's, such as nvcc."""
    if found := shutil.which(name):
        return Path(found)
    return next(_among_packages(f"nvidia/cu*/bin/{name}"), None)


def nvrtc_library(major: int) -> Path | None:
    """NVRTC of CUDA 12, which is JetPack 6's compiler, or of 13, which is torch's."""
    folder = "cuda_nvrtc" if major == 12 else f"cu{major}"
    return next(_among_packages(f"nvidia/{folder}/lib/libnvrtc.so.{major}"), None)


def _among_packages(pattern: str) -> Iterator[Path]:
    for folder in (FOLDER, *map(Path, sys.path)):
        yield from sorted(folder.glob(pattern), reverse=True)
