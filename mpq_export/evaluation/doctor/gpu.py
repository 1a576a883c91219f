"""Graphics processors: NVIDIA cards by their own tool, Jetson boards by the device tree."""

from __future__ import annotations

import re

from ...runtimes.gpu_kernels.choice import LEAST_CAPABILITY
from .finding import Finding
from .host import Host

_QUERY = ("--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader")
_USE = "mpq-sample --runtime torch uses it"
_TOO_OLD = "Not used: the GPU kernels need compute capability 8.0"
_RELEASE = re.compile(r"R(\d+).*?REVISION:\s*([\d.]+)")


def gpu_findings(host: Host) -> list[Finding]:
    """Every GPU found. That there is none is no fault, since everything runs without."""
    found = [*_cards(host), *_jetson(host)]
    return found or [Finding("GPU", True, "none found; everything runs without, slower")]


def has_card(host: Host) -> bool:
    """Whether there is a GPU that the kernels could run on."""
    return any(finding.advice == _USE for finding in (*_cards(host), *_jetson(host)))


def _is_old(capability: str) -> bool:
    major = capability.partition(".")[0]
    return major.isdecimal() and int(major) < LEAST_CAPABILITY[0]


def _cards(host: Host) -> list[Finding]:
    tool = host.program("nvidia-smi")
    if tool is None:
        return []
    answer = host.ask(tool, _QUERY)
    if not answer:
        advice = "Run nvidia-smi: the driver may not be loaded, or the container has no GPU"
        return [Finding("GPU", False, "nvidia-smi is installed and names no GPU", advice)]
    findings = []
    for line in answer.splitlines():
        name, memory, driver, capability = (
            [part.strip() for part in line.split(",")] + ["unknown"] * 4
        )[:4]
        detail = f"{name}, {memory}, driver {driver}, compute capability {capability}"
        findings.append(Finding("GPU", True, detail, _TOO_OLD if _is_old(capability) else _USE))
    return findings


def _jetson(host: Host) -> list[Finding]:
    model = host.text("proc/device-tree/model")
    release = _RELEASE.search(host.text("etc/nv_tegra_release") or "")
    if model is None or ("NVIDIA" not in model and release is None):
        return []
    linux = f"L4T {release[1]}.{release[2]}" if release else "L4T release unknown"
    return [Finding("board", True, f"{model}, {linux}", _USE)]
