"""What a timing depends on beside the code: clocks, temperatures, load, GPU and power mode."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress

from ..errors import RuntimeUnavailable
from ..runtimes.cuda.driver import Driver, dotted
from ..runtimes.native_library import chosen_kernels
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
_SETTINGS = (
    "processor",
    "board",
    "governor",
    "clock limit",
    "power mode",
    "GPU clock limit",
    "GPU name",
    "GPU driver_version",
    "GPU power.limit",
    "GPU persistence_mode",
)
_CPU = "sys/devices/system/cpu"
_JETSON_GPUS = ("17000000.gpu", "gpu.0", "17000000.ga10b", "57000000.gpu")
_THERMAL_ZONES = 32


def describe_environment(threads: int, host: Host | None = None) -> dict[str, str]:
    """The machine and its state now, as far as it can be read; what cannot is left out."""
    host = host or Host()
    return {
        **describe_machine(),
        **_libraries(),
        "threads": str(threads),
        "load average": f"{os.getloadavg()[0]:.2f}",
        **_clocks(host),
        **_temperatures(host),
        **_board(host),
        **_gpu(host),
    }


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What of it is set and decides times; the rest changes from moment to moment."""
    return {name: environment[name] for name in _SETTINGS if name in environment}


def over_time(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """One description of two of the same machine; what changed says both."""
    found = {}
    for name in {**before, **after}:
        begin, end = before.get(name, "unknown"), after.get(name, "unknown")
        found[name] = begin if begin == end else f"{begin}, then {end}"
    return found


def _libraries() -> dict[str, str]:
    """The native library by the kernels that it runs here, and CUDA's driver where there is one."""
    try:
        found = {"native library": f"{chosen_kernels()} kernels"}
    except RuntimeUnavailable as error:
        found = {"native library": error.what}
    with suppress(RuntimeUnavailable):
        found["CUDA of the driver"] = dotted(Driver.load().version)
    return found


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
