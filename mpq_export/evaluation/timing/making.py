"""Making what is measured in a process of its own: what it took is given back when it ends."""

from __future__ import annotations

import subprocess
import sys


class CannotBeMade(Exception):
    """A library could not make its artefact; one line."""


def make_apart(module: str, *words: str) -> None:
    """``python -m MODULE WORDS``; raises CannotBeMade with the process's last words on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise CannotBeMade(lines[-1] if lines else f"exit status {done.returncode}")
