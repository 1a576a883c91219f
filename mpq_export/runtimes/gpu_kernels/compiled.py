"""Files that are compiled on first use and kept, each under the hash of what it is made of."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import RuntimeUnavailable
from .cache_folder import require_own

_SOURCES = {".cu", ".cpp", ".h", ".sh", ".flags"}
_MOST_CHARACTERS = 300
_USUAL_FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A file that is made when it is asked for, unless it was before.

    Attributes:
        path: where it lies, or will lie; all that it is made of is in its name.
        saying: logged as a warning before it is made.
        make: writes it to a path; raises RuntimeUnavailable where it cannot.
    """

    path: Path
    saying: str
    make: Callable[[Path], None]

    @property
    def is_there(self) -> bool:
        """Whether it has been made."""
        return self.path.is_file()

    def file(self) -> Path:
        """The file; several processes may ask at once.

        Raises:
            RuntimeUnavailable: it cannot be made, or others could put one in its place.
        """
        require_own(self.path.parent)
        if self.is_there:
            return self.path
        try:
            with _locked(self.path.with_suffix(".lock")):
                if not self.is_there:  # another process may have been faster
                    _log.warning("%s", self.saying)
                    self._make()
        except OSError as error:
            raise failed(self.path.parent, str(error.strerror or error)) from error
        return self.path

    def _make(self) -> None:
        made = self.path.with_suffix(f".{os.getpid()}{self.path.suffix}")
        try:
            self.make(made)
            made.replace(self.path)
        finally:
            made.unlink(missing_ok=True)


def named_by_content(folder: Path, stem: str, suffix: str, sources: Path, *key: str) -> Path:
    """The path of what is compiled: its name holds the hash of all code below ``sources``, of
    ``key`` and of the processor's kind."""
    digest = hashlib.sha256("\0".join((platform.machine(), *key)).encode())
    for source in sorted(path for path in sources.rglob("*") if path.suffix in _SOURCES):
        digest.update(source.relative_to(sources).as_posix().encode() + source.read_bytes())
    return folder / f"{stem}-{digest.hexdigest()[:16]}{suffix}"


def by_script(
    script: Path,
    arguments: Sequence[str],
    sources: Path,
    compiler: Path,
    folder: Path,
    stem: str,
    saying: str,
) -> Kept:
    """The library that ``script OUT ARGUMENTS...`` makes of the sources.

    Args:
        script: a shell script.
        arguments: what it is given after the library's path.
        sources: all files below it that are code count.
        compiler: what the script runs; another one is another library.
        folder: where libraries are kept.
        stem: how the library's name begins.
        saying: as :class:`Kept`.
    """
    key = (script.name, str(compiler.resolve()), *arguments)
    path = named_by_content(folder, stem, ".so", sources, *key)
    return Kept(path, saying, lambda made: _run(script, arguments, made))


def program(variable: str, usual: str) -> Path | None:
    """A compiler, on the path or where CUDA is usually installed; the variable names another."""
    found = shutil.which(os.environ.get(variable) or usual, path=_search_path())
    return None if found is None else Path(found)


def failed(where: Path, why: str) -> RuntimeUnavailable:
    """The error for what does not compile, quoting the compiler's first words."""
    return RuntimeUnavailable(
        "The GPU kernels do not compile", where=where, why=why[:_MOST_CHARACTERS]
    )


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_USUAL_FOLDERS])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(script: Path, arguments: Sequence[str], made: Path) -> None:
    done = subprocess.run(
        ["sh", script, made, *arguments],
        env={**os.environ, "PATH": _search_path()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()
        raise failed(script, said or f"exit code {done.returncode}")
