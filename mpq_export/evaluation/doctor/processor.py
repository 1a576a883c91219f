"""Processor features, and what they mean for integer products."""

from __future__ import annotations

import os
import platform

from .finding import Finding
from .host import Host

_MEANINGS = {
    "amx_int8": "tiles of int8 products",
    "avx512_vnni": "exact uint8 x int8 products, 64 at once",
    "avx_vnni": "exact uint8 x int8 products, 32 at once",
    "avx512f": "512-bit vectors",
    "avx2": "256-bit vectors",
    "i8mm": "int8 matrix products",
    "asimddp": "int8 dot products",
    "sve2": "scalable vectors",
    "asimd": "128-bit vectors",
}
"""Flags of ``/proc/cpuinfo``, best first."""
_EXACT = {"amx_int8", "avx512_vnni", "avx_vnni"}
_DOT = {"i8mm", "asimddp"}
_X86, _ARM = ("x86_64", "amd64", "i686"), ("aarch64", "arm64", "armv8l", "armv7l")


def processor_finding(host: Host, machine: str | None = None) -> Finding:
    """Cores, known features, and how integer products will run."""
    machine = (machine or platform.machine()).lower()
    text = host.text("proc/cpuinfo") or ""
    flags = _flags(text)
    known = [f"{flag} ({meaning})" for flag, meaning in _MEANINGS.items() if flag in flags]
    parts = [name for name in (_name(text), machine, f"{os.cpu_count()} cores") if name]
    parts += known or ["no known vector extensions"]
    return Finding("processor", True, ", ".join(parts), _advice(machine, flags))


def _advice(machine: str, flags: set[str]) -> str:
    if machine in _X86 and not flags & _EXACT:
        return (
            "Without VNNI uint8 x int8 products saturate in pairs: ONNX Runtime is asked for its "
            "exact kernel, which is slower"
        )
    if machine in _ARM and not flags & _DOT:
        return (
            "Without dot products (ARMv8.2) integer layers run on widening multiplications, slower"
        )
    return ""


def _flags(text: str) -> set[str]:
    """Features of the first core; x86 calls them flags, ARM Features."""
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _name(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""
