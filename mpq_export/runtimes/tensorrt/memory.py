"""The memory of a build: what it is likely to take, what is left, what a process has."""

from __future__ import annotations

from pathlib import Path

_BASE_MB, _PER_MODEL_BYTE = 450, 6.0
"""Above what TensorRT-RTX 1.7 took for four models (docs/results/tensorrt_plans.md): its libraries,
and copies of the model in the parser, the network and the plan."""
_LEAST_WORKSPACE_MB = 64


def likely_peak_mb(model_bytes: int) -> int:
    """Of the builder's process, without what layers take on a GPU while they are timed."""
    return round(_BASE_MB + _PER_MODEL_BYTE * model_bytes / 1e6)


def workspace_bytes(limit_mb: int | None, model_bytes: int) -> int | None:
    """What a limit for the builder leaves to its layers; None without a limit."""
    if limit_mb is None:
        return None
    return max(_LEAST_WORKSPACE_MB, limit_mb - likely_peak_mb(model_bytes)) << 20


def available_mb(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """That processes can still take here, swap space too; None where the system does not say."""
    free = _kilobytes(meminfo, "MemAvailable")
    return None if free is None else free + (_kilobytes(meminfo, "SwapFree") or 0)


def resident_mb(pid: int) -> int | None:
    """Memory of a process now; None if it is gone."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS")


def own_peak_mb() -> int:
    """Memory of this process at its height; 0 where the system does not say."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM") or 0


def _kilobytes(path: Path, field: str) -> int | None:
    """A field of the kernel's in MB."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) // 1000
    except (OSError, ValueError, IndexError):
        return None
    return None
