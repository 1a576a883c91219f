"""How much memory and disk there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .finding import Finding
from .host import Host


def memory_finding(host: Host) -> Finding:
    """What is free now."""
    return Finding(
        "memory and disk",
        True,
        f"{gigabytes(free_memory(host))} memory free, {gigabytes(free_disk(Path.cwd()))} disk free "
        "here",
    )


def free_memory(host: Host) -> int:
    """Bytes that can still be taken: of the system, or of a container's limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in (host.text("proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (host.text(f"sys/fs/cgroup/memory.{name}") or "" for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of a folder, or of the first folder above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
