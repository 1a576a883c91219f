"""Which flavours of TensorRT are there, for ``mpq-build`` and ``--runtime trt`` or ``trt-rtx``."""

from __future__ import annotations

import re

from ...errors import RuntimeUnavailable
from ...packages import installed_version
from ...runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE, named_plugin
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
    return [*findings, _library(host), _plugin()]


def _package(subject: str, names: tuple[str, ...]) -> Finding:
    for name in names:
        if (version := installed_version(name)) is not None:
            return Finding(subject, True, f"{name} {version}")
    return Finding(subject, True, "not installed", _LATER)


def _plugin() -> Finding:
    """What packed layers run by."""
    subject = "TensorRT plugin"
    try:
        library = named_plugin()
    except RuntimeUnavailable as error:
        return Finding(subject, False, f"{error.where}: {error.why}", error.fix)
    if library is None:
        return Finding(subject, True, f"in Python; {PLUGIN_VARIABLE} names no library")
    return Finding(subject, True, f"{PLUGIN_VARIABLE} names {library}")


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
