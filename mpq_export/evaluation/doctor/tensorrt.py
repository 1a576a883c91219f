"""Which flavours of TensorRT are there, for ``mpq-build`` and ``--runtime trt`` or ``trt-rtx``."""

from __future__ import annotations

import re

from ...errors import RuntimeUnavailable
from ...packages import installed_version
from ...runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE, named_plugin
from ...runtimes.tensorrt.trtexec import USUAL_PLACE
from .finding import Finding
from .host import Host

_LATER = "Only needed for engines of the trt target: docs/tensorrt.md"
_BUILD = (
    f"Engines of packed layers by trtexec need it: build plugins/tensorrt and set {PLUGIN_VARIABLE}"
)
_PYTHON = {
    "TensorRT for Python": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "TensorRT for RTX for Python": ("tensorrt-rtx", "tensorrt_rtx"),
}
_LIBRARY = re.compile(r"^\s*(libnvinfer|libtensorrt_rtx)\.so\.([\d.]+)\s.*=>\s*(\S+)", re.MULTILINE)


def tensorrt_findings(host: Host) -> list[Finding]:
    """The Python packages, the command line tool and the libraries; absence is no fault."""
    versions = {subject: _package(names) for subject, names in _PYTHON.items()}
    findings = [
        Finding(subject, True, "not installed", _LATER)
        if version is None
        else Finding(subject, True, version)
        for subject, version in versions.items()
    ]
    tool = host.program("trtexec", USUAL_PLACE)
    findings.append(
        Finding("trtexec", True, "not found", _LATER)
        if tool is None
        else Finding("trtexec", True, str(tool))
    )
    return [*findings, _library(host), _plugin(any(versions.values()), tool is not None)]


def _package(names: tuple[str, ...]) -> str | None:
    """The first of these that is installed, with its version."""
    for name in names:
        if (version := installed_version(name)) is not None:
            return f"{name} {version}"
    return None


def _plugin(bindings: bool, trtexec: bool) -> Finding:
    """What packed layers run by, where there are bindings for this Python, or trtexec alone."""
    subject = "TensorRT plugin"
    try:
        library = named_plugin()
    except RuntimeUnavailable as error:
        return Finding(subject, False, f"{error.where}: {error.why}", error.fix)
    if library is not None:
        return Finding(subject, True, f"{PLUGIN_VARIABLE} names {library}")
    none_named = f"{PLUGIN_VARIABLE} names no library"
    if bindings:
        return Finding(subject, True, f"in Python; {none_named}")
    if trtexec:
        detail = f"none: {none_named}, and the one in Python needs bindings for this Python"
        return Finding(subject, True, detail, _BUILD)
    return Finding(subject, True, f"none: {none_named}, and there is no TensorRT", _LATER)


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
