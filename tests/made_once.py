"""What takes long to make and is only looked at: made by one of pytest-xdist's workers, for all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


class MadeOnce:
    """Folders of this run of the tests, by name; who comes second waits for who makes one."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()
        # Workers have folders of their own inside the run's.
        self._base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder in which ``make(folder)`` has succeeded once; ``make`` creates it."""
        folder, made = self._base / f"once-{name}" / name, self._base / f"once-{name}" / "made"
        folder.parent.mkdir(exist_ok=True)
        with open(folder.parent / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder
