"""What a timing depends on beside the code: clocks, temperatures, load, GPU and power mode."""

from __future__ import annotations

import os
import re

from .doctor.host import Host
from .machine import describe_machine

_GPU_FIELDS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.limit",
    "persistence_mode",
)
_BUSY_PER_CORE = 0.25
_CPU = "sys/devices/system/cpu"
_JETSON_GPUS = ("17000000.gpu", "gpu.0", "17000000.ga10b", "57000000.gpu")
_THERMAL_ZONES = 32


def describe_environment(threads: int, host: Host | None = None) -> dict[str, str]:
    """The machine and its state now, as far as it can be read; what cannot is left out."""
    host = host or Host()
    return {
        **describe_machine(),
        "threads": str(threads),
        "load average": f"{os.getloadavg()[0]:.2f}",
        **_clocks(host),
        **_temperatures(host),
        **_board(host),
        **_gpu(host),
    }


def busy_note(load: float, cores: int) -> str:
    """What is to be said of figures from a machine that did other work, or nothing."""
    if load <= _BUSY_PER_CORE * cores:
        return ""
    return (
        f"The machine was busy when this began: a load average of {load:.1f} on {cores} cores. "
        "Times are longer and spread wider than on a quiet one."
    )


def _clocks(host: Host) -> dict[str, str]:
    found = {
        "governor": host.text(f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        "clock now": _megahertz(host.text(f"{_CPU}/cpu0/cpufreq/scaling_cur_freq"), 1e3),
        "clock limit": _megahertz(host.text(f"{_CPU}/cpu0/cpufreq/scaling_max_freq"), 1e3),
    }
    return {name: value for name, value in found.items() if value}


def _temperatures(host: Host) -> dict[str, str]:
    """Every zone that says what it is."""
    found = {}
    for zone in range(_THERMAL_ZONES):
        kind = host.text(f"sys/class/thermal/thermal_zone{zone}/type")
        value = host.text(f"sys/class/thermal/thermal_zone{zone}/temp")
        if kind and value and value.lstrip("-").isdecimal():
            found[f"temperature {kind}"] = f"{int(value) / 1e3:.1f} C"
    return found


def _board(host: Host) -> dict[str, str]:
    """A Jetson's name, power mode and GPU clock."""
    model = host.text("proc/device-tree/model")
    if not model or "NVIDIA" not in model:
        return {}
    found = {"board": model}
    tool = host.program("nvpmodel")
    answer = host.ask(tool, ("-q",)) if tool else None
    mode = re.search(r"NV Power Mode:\s*(\S+)", answer or "")
    if mode:
        found["power mode"] = mode[1]
    for name in _JETSON_GPUS:
        folder = f"sys/class/devfreq/{name}"
        clock = _megahertz(host.text(f"{folder}/cur_freq"), 1e6)
        if clock:
            found["GPU clock now"] = clock
            limit = _megahertz(host.text(f"{folder}/max_freq"), 1e6)
            found |= {"GPU clock limit": limit} if limit else {}
            break
    return found


def _gpu(host: Host) -> dict[str, str]:
    tool = host.program("nvidia-smi")
    query = (f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader")
    answer = host.ask(tool, query) if tool else None
    if not answer:
        return {}
    values = [part.strip() for part in answer.splitlines()[0].split(",")]
    named = zip(_GPU_FIELDS, values, strict=False)
    return {f"GPU {field}": value for field, value in named if not value.startswith("[")}


def _megahertz(text: str | None, units_per_megahertz: float) -> str | None:
    if not text or not text.isdecimal():
        return None
    return f"{int(text) / units_per_megahertz:.0f} MHz"
