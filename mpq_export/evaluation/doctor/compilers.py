"""Compilers: what the native libraries are built with when the package is installed, and others."""

from __future__ import annotations

import re

from .finding import Finding
from .host import Host

_LIBRARY = "Builds the native libraries when the package is installed"
_USES = {
    "g++": _LIBRARY,
    "clang++": f"{_LIBRARY}, in the place of g++",
    "cmake": f"{_LIBRARY}; where it is missing, pip brings it",
    "aarch64-linux-gnu-g++": "Builds the native library's tests for boards (make native-aarch64)",
    "nvcc": "Compiles the GPU kernels on first use of --runtime torch; without it NVRTC does",
}
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")


def compiler_findings(host: Host) -> list[Finding]:
    """Versions of what is there; absence is no fault."""
    return [_compiler(host, name, use) for name, use in _USES.items()]


def _compiler(host: Host, name: str, use: str) -> Finding:
    program = host.program(name)
    if program is None:
        return Finding(name, True, "not found", use)
    numbers = _VERSION.findall(host.ask(program, ("--version",)) or "")
    return Finding(name, True, numbers[0] if numbers else "version unknown", use)
