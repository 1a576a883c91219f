"""Running an installed command as a user does, in a process of its own."""

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """An installed command with its arguments."""
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
