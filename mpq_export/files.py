"""Files that can be trusted: atomic folders, JSON with caps, manifests of hashes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .errors import UserError
from .leftovers import REPLACED, locked_stage, remove_leftovers
from .packages import installed_version

MANIFEST = "manifest.json"
MAX_JSON_BYTES = 64 << 20
MAX_FILE_BYTES = 1 << 40
_MAX_TEXT_BYTES = 1 << 20
TRAINING, ENGINE = "training", "engine"
TOOLS = "tools"
_DERIVED = ("onnx", "pipeline", TRAINING, ENGINE, TOOLS)
"""What may lie in a bundle beside its core files, or beside a lowered model."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_RECORDED_PACKAGES = ("torch", "diffusers", "onnx", "numpy")

Manifest = dict[str, dict[str, Any]]


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling of ``target`` that takes its place when the block ends well.

    If the block raises, or the process dies, ``target`` is as it was (where the file system cannot
    exchange two folders in one step, a kill between two renames leaves it beside its place, and the
    next writer puts it back). What earlier writers left when they were killed is removed. Only an
    empty folder, or one that holds nothing but what this program wrote, is replaced.
    """
    target = Path(os.path.abspath(target))
    with ExitStack() as lock:
        try:
            remove_leftovers(target)
            require_replaceable(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            stage = lock.enter_context(locked_stage(target))
        except OSError as error:
            raise UserError(
                "The output folder cannot be written", where=target, why=str(error.strerror)
            ) from error
        replaced = stage / REPLACED
        try:
            content = stage / "content"
            content.mkdir()
            yield content
            require_replaceable(target)  # again: writing may have taken hours
            _swap(content, target, replaced)
        except OSError as error:
            raise UserError(
                "Writing failed", where=error.filename or target, why=str(error.strerror or error)
            ) from error
        finally:
            if target.exists() or not replaced.exists():
                shutil.rmtree(stage, ignore_errors=True)


def require_replaceable(target: Path) -> None:
    """Raise UserError unless a folder may be written at ``target``; ask before long work."""
    try:
        exists = target.exists()
        if target.is_symlink() or (exists and not target.is_dir()):
            raise UserError(
                "The output exists and is not a folder", where=target, fix="Choose another path"
            )
        foreign = exists and any(target.iterdir()) and not _is_ours(target)
    except OSError as error:
        raise UserError(
            "The output folder cannot be written", where=target, why=str(error.strerror)
        ) from error
    if foreign:
        raise UserError(
            "The output folder holds other files",
            where=target,
            why="Only a folder that holds nothing but what this program wrote is replaced",
            fix="Choose another path, or empty it",
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds our manifest, what it lists, lowered models, and nothing else."""
    try:
        manifest = _manifest_of(folder, UserError)
    except UserError:
        return False
    files, versions = manifest.get("files"), manifest.get("versions")
    if not isinstance(files, dict) or not isinstance(versions, dict):
        return False
    own = {MANIFEST, *_DERIVED, *(name.partition("/")[0] for name in files)}
    return "mpq-export" in versions and {path.name for path in folder.iterdir()} <= own


def _swap(content: Path, target: Path, aside: Path) -> None:
    """Put ``content`` in the place of ``target``, which is then ``aside``; one step on Linux."""
    if _takes_free_place(content, target):
        return
    if _exchange(content, target):
        os.rename(content, aside)
    else:
        try:
            os.rename(target, aside)
            os.rename(content, target)
        except BaseException:  # Ctrl-C between the two renames must not lose the old folder
            if aside.exists() and not target.exists():
                os.rename(aside, target)
            raise


def _takes_free_place(content: Path, target: Path) -> bool:
    """Whether ``target`` was absent or an empty folder, and is now ``content``."""
    try:
        os.rename(content, target)
    except OSError:
        if not target.exists():
            raise
        return False  # another process may have been faster
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; False where the system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    here = ctypes.c_int(_AT_FDCWD)
    done: int = renameat2(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A temporary sibling of a file that takes its place when the block ends well.

    It keeps the target's suffix, since image libraries choose a format by it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
    except OSError as error:
        raise UserError(
            "The file cannot be written", where=target, why=str(error.strerror)
        ) from error
    stage = Path(name)
    try:
        yield stage
        os.chmod(stage, 0o666 & ~_umask())
        os.replace(stage, target)
    except OSError as error:
        raise UserError(
            "The file cannot be written", where=target, why=str(error.strerror or error)
        ) from error
    finally:
        stage.unlink(missing_ok=True)


def require_writable(target: Path) -> None:
    """Raise UserError unless a file may be written at ``target``; ask before long work."""
    try:
        if target.is_dir():
            raise UserError("The file cannot be written", where=target, why="It is a folder")
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        with tempfile.NamedTemporaryFile(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=folder
        ):
            pass
    except OSError as error:
        raise UserError(
            "The file cannot be written", where=target, why=str(error.strerror)
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, data: Any) -> None:
    """UTF-8 JSON, two spaces, final newline."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_json(
    data: bytes,
    where: Path,
    error: type[UserError],
    constants: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """A JSON object; refuses duplicate keys and anything that is not an object.

    ``constants`` is given ``NaN``, ``Infinity`` and ``-Infinity``, which JSON does not have; they
    are refused where it is None.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=constants or _no_constants,
            parse_float=_finite,
        )
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a pair is no character
    except (ValueError, RecursionError) as problem:
        raise error("The file is not valid JSON", where=where, why=str(problem)) from problem
    if not isinstance(value, dict):
        raise error("The file is not a JSON object", where=where)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def text_lines(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 text file that are not empty; raises UserError if there are none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_TEXT_BYTES + 1)
        lines = [line.strip() for line in data.decode("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("The text file cannot be read", where=path, why=str(error)) from error
    if len(data) > _MAX_TEXT_BYTES or not any(lines):
        raise UserError(
            "The text file is empty or too long", where=path, why=f"Up to {_MAX_TEXT_BYTES} bytes"
        )
    return tuple(line for line in lines if line)


def write_manifest(folder: Path, names: Sequence[str]) -> None:
    """Hashes and sizes of the named files, and the versions that wrote them."""
    entries = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            entries[name] = {"sha256": digest, "size": stream.tell()}
    versions = {"mpq-export": __version__}
    for package in _RECORDED_PACKAGES:
        if (installed := installed_version(package)) is not None:
            versions[package] = installed
    write_json(folder / MANIFEST, {"files": entries, "versions": versions})


def read_manifest(folder: Path, names: Sequence[str], error: type[UserError], fix: str) -> Manifest:
    """The manifest's entries; it must list exactly the named files, whole and plain."""
    files = _manifest_of(folder, error).get("files")
    if not isinstance(files, dict) or set(files) != set(names):
        raise error(
            "The manifest does not list the files it should",
            where=folder / MANIFEST,
            why=f"Expected {', '.join(names)}",
            fix=fix,
        )
    for name, entry in files.items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or type(entry.get("size")) is not int
            or entry["size"] < 0
        ):
            raise error(
                f"The manifest's entry for {name} is malformed", where=folder / MANIFEST, fix=fix
            )
    return files


def _manifest_of(folder: Path, error: type[UserError]) -> dict[str, Any]:
    data = _plain_bytes(folder, MANIFEST, MAX_JSON_BYTES, error)
    if len(data) > MAX_JSON_BYTES:
        raise error("The file is too large", where=folder / MANIFEST)
    return parse_json(data, folder / MANIFEST, error)


def verified_bytes(folder: Path, name: str, manifest: Manifest, error: type[UserError]) -> bytes:
    """A file's content, if its size and sha256 are those of the manifest."""
    data = _plain_bytes(folder, name, min(MAX_FILE_BYTES, manifest[name]["size"]), error)
    if (
        len(data) != manifest[name]["size"]
        or hashlib.sha256(data).hexdigest() != manifest[name]["sha256"]
    ):
        raise _changed(folder / name, error)
    return data


def _changed(path: Path, error: type[UserError]) -> UserError:
    return error(
        "The file is not the one that was written",
        where=path,
        why=f"Its size or sha256 differs from {MANIFEST}: it is damaged or was changed",
        fix="Copy the folder again, or export it again",
    )


def verified_map(
    folder: Path, name: str, manifest: Manifest, error: type[UserError]
) -> NDArray[np.uint8]:
    """A file mapped into memory, read-only, if its size and sha256 are those of the manifest."""
    path = verified_path(folder, name, manifest, error)
    try:
        size = path.stat().st_size
        return np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as problem:
        raise error("The file cannot be read", where=path, why=str(problem.strerror)) from problem


def verified_path(folder: Path, name: str, manifest: Manifest, error: type[UserError]) -> Path:
    """The path of a file whose size and sha256 are those of the manifest; it is not kept open."""
    path = _plain_file(folder, name, error)
    try:
        with open(path, "rb", opener=_open_plain) as stream:
            if os.fstat(stream.fileno()).st_size != manifest[name]["size"]:
                raise _changed(path, error)
            if hashlib.file_digest(stream, "sha256").hexdigest() != manifest[name]["sha256"]:
                raise _changed(path, error)
    except OSError as problem:
        raise error("The file cannot be read", where=path, why=str(problem.strerror)) from problem
    return path


def read_json(
    folder: Path, name: str, manifest: Manifest, error: type[UserError]
) -> dict[str, Any]:
    """A verified JSON object."""
    if manifest[name]["size"] > MAX_JSON_BYTES:
        raise error(
            "The file is too large",
            where=folder / name,
            why=f"{manifest[name]['size']} bytes of JSON",
        )
    return parse_json(verified_bytes(folder, name, manifest, error), folder / name, error)


def _plain_file(folder: Path, name: str, error: type[UserError]) -> Path:
    """The path of a regular file inside ``folder`` that is reached without following links."""
    path = folder / name
    for part in (path, *path.parents):
        if part == folder:
            break
        if part.is_symlink():
            raise error(
                "The file is a link", where=part, why="A bundle's files must lie in its folder"
            )
    if not path.is_file():
        raise error(
            "A file is missing", where=path, fix="Copy the folder again, or export it again"
        )
    return path


def _plain_bytes(folder: Path, name: str, limit: int, error: type[UserError]) -> bytes:
    """Content of a regular file inside ``folder``, read without following links.

    A file longer than ``limit`` is reported one byte longer than that, never read whole.
    """
    path = _plain_file(folder, name, error)
    try:
        with open(path, "rb", opener=_open_plain) as stream:
            # Never ask for more than there is: read() allocates what it is asked for.
            return stream.read(min(limit, os.fstat(stream.fileno()).st_size) + 1)
    except MemoryError as problem:
        raise error("The file is larger than the memory", where=path) from problem
    except OSError as problem:
        raise error("The file cannot be read", where=path, why=str(problem.strerror)) from problem


def _open_plain(path: str, flags: int) -> int:
    """What was a plain file when it was looked at may be a link or a pipe when it is opened."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
