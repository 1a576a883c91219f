"""What this machine can run, and what stands in the way; heavy packages are never imported."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..bundle import read_bundle
from ..errors import UserError
from ..lowering.names import Target
from ..packages import installed_version

_PACKAGES = {
    "numpy": "everything",
    "onnx": "lowering and ONNX Runtime",
    "onnxruntime": "--runtime ort and onnx",
    "torch": "quantising, --runtime torch",
    "diffusers": "quantising and sampling",
    "onnxscript": "lowering",
    "polygraphy": "mpq-check",
    "torchmetrics": "image quality",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, whether it is fine, and what to do if not."""

    subject: str
    ok: bool
    detail: str
    advice: str = ""


def examine(bundle: Path | None) -> list[Finding]:
    """Look at the interpreter, the packages, the processor, and a bundle if one is given."""
    findings = [
        _python(),
        *(_package(name, use) for name, use in _PACKAGES.items()),
        _processor(),
        _memory(),
    ]
    if bundle is not None:
        findings += _bundle(bundle)
    return findings


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    advice = "" if good else "Install Python 3.11 or newer"
    return Finding("Python", good, f"{platform.python_version()}, mpq-export {__version__}", advice)


def _package(name: str, use: str) -> Finding:
    for candidate in (name, f"{name}-gpu"):
        if (installed := installed_version(candidate)) is not None:
            return Finding(candidate, True, installed)
    return Finding(name, False, f"not installed; needed for {use}", "pip install 'mpq-export[cpu]'")


def _processor() -> Finding:
    """CPU features that decide how integer products run."""
    machine, flags = platform.machine(), _cpu_flags()
    known = [
        f for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "asimddp", "i8mm") if f in flags
    ]
    detail = (
        f"{machine}, {os.cpu_count()} cores, {', '.join(known) or 'no known integer extensions'}"
    )
    slow = machine in ("x86_64", "AMD64") and not {"avx_vnni", "avx512_vnni"} & flags
    advice = "Without VNNI integer products take a slower exact path" if slow else ""
    return Finding("processor", True, detail, advice)


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {
        flag
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
        for flag in line.partition(":")[2].split()
    }


def _memory() -> Finding:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    disk = shutil.disk_usage(Path.cwd()).free
    return Finding(
        "memory and disk",
        True,
        f"{free / 2**30:.1f} GiB memory free, {disk / 2**30:.1f} GiB disk free here",
    )


def _bundle(path: Path) -> list[Finding]:
    try:
        bundle = read_bundle(path)
    except UserError as error:
        return [Finding("bundle", False, error.paragraph())]
    config = bundle.quantization
    findings = [
        Finding(
            "bundle",
            True,
            f"verified: {config.bits} by {config.method}, {len(bundle.layers)} quantised layers, "
            f"family {config.family or 'none'}",
        )
    ]
    for target in Target:
        there = (path / "onnx" / target.value).is_dir()
        advice = "" if there else f"mpq-export --ckpt {path} --target {target.value}"
        findings.append(
            Finding(f"target {target.value}", there, "lowered" if there else "not lowered", advice)
        )
    findings.append(
        Finding(
            "ort nodes",
            True,
            "rewritten at load to QuantizeLinear and MatMulInteger on int8 weights: "
            "this version has no native library, so packed weights are expanded in memory",
        )
    )
    return findings
