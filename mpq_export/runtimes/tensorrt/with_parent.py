"""Processes that end with the command that started them, however that ends.

``python -m mpq_export.runtimes.tensorrt.with_parent PROGRAM ...`` becomes that program, which knows
nothing of it: what the system was asked for outlives the change of programs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the system end this process with its parent: two builders do not fit a board."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ending_with_parent(command: list[str]) -> list[str]:
    """A command that does the same as this one, and ends so; its first word is a path."""
    return [sys.executable, "-P", "-m", __name__, *command]


def main() -> None:
    """Become the program that is named."""
    end_with_parent()
    program = sys.argv[1:]
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
