"""What a killed process left beside its output: found, told from what is in use, and removed.

Every half-written folder is locked by its writer; the system drops the lock with the process,
however that ends. A folder whose lock is free therefore has no writer. Some network file systems
lock no folders (NFS): what is written there is never taken for a leftover, and is not removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path

SUFFIX = ".partial"
REPLACED = "replaced"
"""Inside a half-written folder: the old output, between two renames."""


@contextmanager
def locked_stage(target: Path) -> Iterator[Path]:
    """A new hidden sibling of ``target`` that counts as in use until the block or process ends.

    Raises OSError if the folder cannot be written.
    """
    while True:
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent))
        try:
            handle = _opened(stage)
        except FileNotFoundError:
            continue  # another process took it for a leftover before it was locked
        try:
            if _take(handle, stage) is not _Lock.IN_USE:
                yield stage
                return
        finally:
            os.close(handle)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder, made if need be, that is this process's until the block or process ends.

    Raises BlockingIOError if it is in use, not ours, or cannot be locked. Locks are the system's
    (Linux, macOS).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as lock:
        if lock is None:
            raise BlockingIOError(f"{folder} is in use")
        yield


def remove_leftovers(target: Path) -> None:
    """Remove the half-written siblings of ``target`` whose writers are dead.

    If one holds the only copy of the old output, that is put back in its place first. What cannot
    be locked or removed stays: it is hidden, and in nobody's way.
    """
    for stage in sorted(target.parent.glob(f".{_literally(target.name)}.*{SUFFIX}")):
        with _locked(stage) as lock:
            if lock is None:
                continue
            if (stage / REPLACED).is_dir() and not os.path.lexists(target):
                os.rename(stage / REPLACED, target)
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _locked(stage: Path) -> Iterator[int | None]:
    """An open, locked folder of our own, or None if it is gone, a link, in use, or not lockable."""
    try:
        handle = _opened(stage)
    except OSError:
        yield None
        return
    try:
        ours = os.fstat(handle).st_uid == os.geteuid()
        yield handle if ours and _take(handle, stage) is _Lock.TAKEN else None
    finally:
        os.close(handle)


class _Lock(Enum):
    TAKEN = auto()
    IN_USE = auto()
    """Another process has it, or has removed the folder."""
    REFUSED = auto()
    """By the file system, to everyone."""


def _opened(stage: Path) -> int:
    return os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _take(handle: int, stage: Path) -> _Lock:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _Lock.IN_USE
    except OSError:
        return _Lock.REFUSED
    try:
        opened, there = os.fstat(handle), os.lstat(stage)
    except OSError:
        return _Lock.IN_USE
    # Between opening and locking another process may have removed it.
    same = (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino)
    return _Lock.TAKEN if same else _Lock.IN_USE


def _literally(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
