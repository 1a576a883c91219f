"""Running an installed command as a user does, in a process of its own."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from warm_interpreter import WarmInterpreter

BIN = Path(sys.executable).parent


@cache
def interpreter() -> WarmInterpreter:
    """The one that all commands of this process's tests come from."""
    return WarmInterpreter()


def run(
    *words: object, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """An installed command with its arguments; ``environment`` is beside this process's.

    Its interpreter has imported torch and diffusers already.
    """
    command, *arguments = map(str, words)
    return interpreter().run(BIN / command, arguments, cwd, os.environ | (environment or {}))


def run_anew(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter that is started for it: seconds slower where torch is needed."""
    command, *arguments = map(str, words)
    return subprocess.run(
        [str(BIN / command), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def assert_user_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, one paragraph on stderr that holds all words, nothing on stdout."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (paragraph,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for word in words:
        assert word in paragraph
