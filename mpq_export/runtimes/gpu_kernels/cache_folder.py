"""Where what is compiled is kept: a folder of the user's own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ...errors import RuntimeUnavailable


def cache_folder() -> Path:
    """Of the user, as the XDG specification says; nothing is made.

    Raises:
        RuntimeUnavailable: the user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # the specification wants others ignored
        return named / "mpq-export"
    try:
        return Path.home() / ".cache" / "mpq-export"
    except RuntimeError as error:
        raise RuntimeUnavailable(
            "There is no place to keep the GPU kernels",
            why=f"XDG_CACHE_HOME is not set, and there is no home: {error}",
            fix="Set XDG_CACHE_HOME",
        ) from error


def require_own(folder: Path) -> None:
    """Make a folder if need be.

    Raises:
        RuntimeUnavailable: it cannot be made, or others could put code there, whose name they can
            foresee and which would be loaded.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise RuntimeUnavailable(
            "The GPU kernels cannot be kept", where=folder, why=str(error.strerror or error)
        ) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise RuntimeUnavailable(
            "The GPU kernels are not kept where others can write",
            where=folder,
            why=f"{folder} is another user's, or all can write to it",
            fix="Remove it, or set XDG_CACHE_HOME to a folder of this user's",
        )


def own_cache_folder() -> Path:
    """:func:`cache_folder`, made if need be; raises RuntimeUnavailable as both of the above."""
    folder = cache_folder()
    require_own(folder)
    return folder
