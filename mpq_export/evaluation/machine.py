"""The machine a measurement was made on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .. import __version__
from ..packages import installed_version

_PACKAGES = ("torch", "onnxruntime", "diffusers", "numpy")
_WHERE_INSTALLED = ("onnx", "tensorrt", "tensorrt-rtx")
"""Named where they are there."""


def describe_machine() -> dict[str, str]:
    """Processor, cores, interpreter, and versions of this program and of packages."""
    described = {
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "mpq-export": __version__,
    }
    for package in _PACKAGES:
        described[package] = installed_version(package) or "not installed"
    for package in _WHERE_INSTALLED:
        if (installed := installed_version(package)) is not None:
            described[package] = installed
    return described


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
