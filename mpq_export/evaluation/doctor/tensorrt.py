"""Which flavours of TensorRT are there, for ``mpq-build`` and ``--runtime trt`` or ``trt-rtx``."""

from __future__ import annotations

import re

from ...packages import installed_version
from .finding import Finding
from .host import Host

_LATER = "Only needed for engines of the trt target: docs/tensorrt.md"
_PYTHON = {
    "TensorRT for Python": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "TensorRT for RTX for Python": ("tensorrt-rtx", "tensorrt_rtx"),
}
_LIBRARY = re.compile(r"^\s*(libnvinfer|libtensorrt_rtx)\.so\.([\d.]+)\s.*=>\s*(\S+)", re.MULTILINE)


def tensorrt_findings(host: Host) -> list[Finding]:
    """The Python packages, the command line tool and the libraries; absence is no fault."""
    findings = [_package(subject, names) for subject, names in _PYTHON.items()]
    tool = host.program("trtexec")
    findings.append(
        Finding("trtexec", True, "not found", _LATER)
        if tool is None
        else Finding("trtexec", True, str(tool))
    )
    return [*findings, _library(host)]


def _package(subject: str, names: tuple[str, ...]) -> Finding:
    for name in names:
        if (version := installed_version(name)) is not None:
            return Finding(subject, True, f"{name} {version}")
    return Finding(subject, True, "not installed", _LATER)


def _library(host: Host) -> Finding:
    """What the dynamic linker knows, by ``ldconfig -p``."""
    tool = host.program("ldconfig")
    listing = None if tool is None else host.ask(tool, ("-p",))
    if listing is None:
        return Finding("libnvinfer", True, "unknown: ldconfig does not answer")
    found = [f"{name} {version} ({path})" for name, version, path in _LIBRARY.findall(listing)]
    if not found:
        return Finding("libnvinfer", True, "not found", _LATER)
    return Finding("libnvinfer", True, "; ".join(found))
