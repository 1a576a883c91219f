"""Compilers. Nothing is compiled in this version; later releases have parts that will be."""

from __future__ import annotations

import re

from .finding import Finding
from .host import Host

_USES = {
    "gcc": "native kernels",
    "g++": "native kernels",
    "clang": "native kernels, in the place of gcc",
    "cmake": "native kernels",
    "nvcc": "the TensorRT plugin",
    "aarch64-linux-gnu-g++": "native kernels for boards, built on a PC",
}
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")


def compiler_findings(host: Host) -> list[Finding]:
    """Versions of what is there; absence is no fault."""
    return [_compiler(host, name, use) for name, use in _USES.items()]


def _compiler(host: Host, name: str, use: str) -> Finding:
    later = f"Nothing is compiled in this version; a later release uses it for {use}"
    program = host.program(name)
    if program is None:
        return Finding(name, True, "not found", later)
    numbers = _VERSION.findall(host.ask(program, ("--version",)) or "")
    return Finding(name, True, numbers[0] if numbers else "version unknown", later)
