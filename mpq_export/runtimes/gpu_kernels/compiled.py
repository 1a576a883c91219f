"""Libraries that are compiled on first use and kept, each under the hash of what it is made of."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import RuntimeUnavailable

_SOURCES = {".cu", ".cpp", ".h", ".sh", ".flags"}
_MOST_CHARACTERS = 300
_USUAL_FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_log = logging.getLogger(__name__)


def search_path() -> str:
    """Folders of compilers: PATH, and where CUDA is usually installed."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_USUAL_FOLDERS])


def compiled_library(
    script: Path,
    arguments: Sequence[str],
    sources: Path,
    compiler: Path,
    folder: Path,
    stem: str,
    saying: str,
) -> Path:
    """The library that ``script OUT ARGUMENTS...`` makes of the sources.

    Args:
        script: a shell script.
        arguments: what it is given after the library's path.
        sources: all files below it that are code count.
        compiler: what the script runs; another one, as another processor, is another library.
        folder: where libraries are kept; several processes may ask at once.
        stem: how the library's name begins.
        saying: logged as a warning before the compiler is started.

    Raises:
        RuntimeUnavailable: it does not compile, or the folder cannot be written.
    """
    key = (platform.machine(), str(compiler.resolve()), *arguments)
    digest = hashlib.sha256("\0".join(key).encode())
    for source in sorted(path for path in sources.rglob("*") if path.suffix in _SOURCES):
        digest.update(source.relative_to(sources).as_posix().encode() + source.read_bytes())
    library = folder / f"{stem}-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(library.with_suffix(".lock")):
            if not library.is_file():  # another process may have been faster
                _log.warning("%s", saying)
                _compile(script, arguments, library)
    except OSError as error:
        raise _failed(folder, str(error.strerror or error)) from error
    return library


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(script: Path, arguments: Sequence[str], library: Path) -> None:
    made = library.with_suffix(f".{os.getpid()}.so")
    try:
        done = subprocess.run(
            ["sh", script, made, *arguments],
            env={**os.environ, "PATH": search_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip()
            raise _failed(script, said[:_MOST_CHARACTERS] or f"exit code {done.returncode}")
        made.replace(library)
    finally:
        made.unlink(missing_ok=True)


def _failed(where: Path, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable("The GPU kernels do not compile", where=where, why=why)
