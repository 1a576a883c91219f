"""What is finished, kept by content: a run that was stopped goes on where it was.

Every folder's name ends in a hash of all that its content depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...errors import RuntimeUnavailable, UserError
from ...files import ENGINE, MANIFEST, parse_json, staged_file, staged_folder, write_json
from ...leftovers import locked_folder
from ...packages import installed_version
from ...runtimes.names import ENGINE_RUNTIMES
from ...runtimes.native_library import native_library
from .rows import Row

_PACKAGES = ("numpy", "onnx", "onnxruntime", "torch", "diffusers", "tensorrt", "tensorrt-rtx")
_PACKAGES_OF_OURS = ("mpq_export", "mpq_export.pipelines")
_VARIABLES = ("MPQ_CPU_KERNELS", "MPQ_GPU_KERNELS")
_DIGITS = 12
_UNFINISHED = ".unfinished"


class Store:
    """A folder of finished parts. What a killed run left half-made is made again, or from where it
    was (:meth:`resumed`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def made(self, name: str, parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a part, made by ``make`` into an empty one if it is not there yet."""
        folder = self._folder / f"{name}-{digest_of(parts)}"
        if folder.is_dir():
            return folder
        with staged_folder(folder) as stage:
            make(stage)
        return folder

    def resumed(
        self, name: str, parts: Mapping[str, Any], make: Callable[[Path, Path], None]
    ) -> Path:
        """As :meth:`made`, where ``make`` also has a folder for what it has done so far: the next
        run gets it again if this one is killed or fails.

        Raises UserError where another process makes this part now.
        """
        folder = self._folder / f"{name}-{digest_of(parts)}"
        if folder.is_dir():
            return folder
        unfinished = folder.with_name(f"{folder.name}{_UNFINISHED}")
        try:
            with locked_folder(unfinished):
                with staged_folder(folder) as stage:
                    make(stage, unfinished)
                shutil.rmtree(unfinished)
        except BlockingIOError as error:
            raise UserError(
                "Another process makes this part now",
                where=unfinished,
                why=str(error),
                fix="Wait until it is done, or name another folder with --out",
            ) from error
        return folder

    def kept(
        self,
        name: str,
        parts: Mapping[str, Any],
        make: Callable[[], Mapping[str, Any]],
        is_whole: Callable[[Mapping[str, Any]], bool] = lambda made: True,
    ) -> dict[str, Any]:
        """A JSON object of ``make``, made once; one that is not whole is not kept."""
        path = self._folder / f"{name}-{digest_of(parts)}.json"
        if not path.is_file():
            made = make()
            if not is_whole(made):
                return dict(made)
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(path) as stage:
                write_json(stage, dict(made))
        return read_part(path)


def read_part(path: Path) -> dict[str, Any]:
    """A JSON object that a finished part holds."""
    return parse_json(path.read_bytes(), path, UserError)


def digest_of(parts: Mapping[str, Any]) -> str:
    """The beginning of a hash of what JSON can hold."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def program_parts() -> dict[str, str]:
    """This program, its libraries, and what chooses among its kernels."""
    versions = {name: installed_version(name) or "none" for name in _PACKAGES}
    variables = {name: os.environ.get(name, "") for name in _VARIABLES}
    try:
        library = file_digest(native_library())
    except RuntimeUnavailable:
        library = "none"
    return {**versions, **variables, "library": library, "sources": _sources_digest()}


def row_parts(row: Row) -> dict[str, str]:
    """Content of what a row runs: the manifests of a bundle hold the hashes of its files."""
    if row.runtime is None:
        return {"kind": row.kind.value, "baseline": row.folder.name}
    manifests = [row.folder / MANIFEST, *sorted((row.folder / "onnx").glob(f"*/{MANIFEST}"))]
    parts = {str(path.relative_to(row.folder)): file_digest(path) for path in manifests}
    if row.runtime in ENGINE_RUNTIMES:
        for path in sorted((row.folder / ENGINE).rglob("*")):
            if path.is_file():
                parts[str(path.relative_to(row.folder))] = file_digest(path)
    return {**parts, "kind": row.kind.value, "runtime": row.runtime.value}


def pipeline_parts(bundle: Bundle) -> dict[str, Any]:
    """What decides images beside the files of a denoiser: how the bundle draws."""
    manifest = bundle.path / "pipeline" / MANIFEST
    return {
        "scheduler": bundle.scheduler_config,
        "family": bundle.quantization.family,
        "pipeline": file_digest(manifest) if manifest.is_file() else "",
    }


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sources_digest() -> str:
    """Of all Python of this package that a step, an image or a profile passes through."""
    digest = hashlib.sha256()
    for package in _PACKAGES_OF_OURS:
        root = Path(str(import_module(package).__file__)).parent
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(("cli/", "evaluation/bench/pages/")):
                digest.update(name.encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
