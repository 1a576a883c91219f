"""The machine as the doctor sees it: its files and its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SECONDS = 10
_MOST_CHARACTERS = 1 << 20
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Where ``ldconfig`` lies; not in every user's PATH."""


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


@dataclass(frozen=True)
class Host:
    """``root`` is where ``/proc`` and ``/etc`` lie; ``search_path`` lists folders of programs."""

    root: Path = Path("/")
    search_path: str = field(default_factory=_search_path)

    def text(self, name: str) -> str | None:
        """A system file such as ``proc/cpuinfo``; None if it is not there or cannot be read."""
        try:
            with (self.root / name).open("rb") as stream:
                return stream.read(_MOST_CHARACTERS).decode("utf-8", "replace").rstrip("\0\n")
        except OSError:
            return None

    def program(self, name: str, usual_place: str = "") -> Path | None:
        """Where a program lies, or None; last in the folder where it usually is."""
        folders = [self.search_path]
        if usual_place:
            folders.append(str(self.root / usual_place.lstrip("/")))
        found = shutil.which(name, path=os.pathsep.join(folders))
        return None if found is None else Path(found)

    def ask(self, program: Path, arguments: Sequence[str]) -> str | None:
        """What a program prints; None if it fails, hangs, or cannot be started."""
        try:
            done = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout[:_MOST_CHARACTERS].decode("utf-8", "replace").strip()
