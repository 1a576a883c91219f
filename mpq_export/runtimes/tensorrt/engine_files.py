"""Engines on disk: ``engine/NAME.plan`` of a bundle, and ``NAME.json`` that says what it is.

An engine is named by what decides it, and by a hash of all that: building the same again finds
it. What does not fit this machine is told before TensorRT reads a byte of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.kernel_layout import LAYOUT
from ...errors import BundleError
from ...files import ENGINE, MAX_JSON_BYTES, parse_json, verified_map, write_json
from ...lowering.kernel_nodes import VERSION
from ...lowering.names import Target
from ..cuda.gpu import Gpu
from .installed import Installed
from .shapes import shapes_option

PLUGIN = f"{VERSION}.{LAYOUT}"
"""Version and layout of the packed layers' operators as they are here."""
_HEX = r"^[0-9a-f]{64}$"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,200}")
_MOST_ENGINES = 256
_HOLDER = ".building.json"
"""Says who builds; what a killed one left is removed with the rest."""
_LONGEST_HOLDER = 4096
_REBUILD = "Build the engine again: mpq-build BUNDLE"


Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EngineIdentity(_Strict):
    """All that decides an engine.

    Attributes:
        model: family or class of the model, for people.
        bits: such as ``w3a4``.
        target: which lowered variant, ``trt`` or ``trt-int8``.
        shapes: least, usual and largest length of every free axis.
        runtime: ``trt`` or ``trt-rtx``.
        tensorrt: its version.
        capabilities: compute capabilities of the GPUs that it runs on, such as ``87``.
        plugin: layout and version of the plugin's operators; empty where there are none.
        multiprocessors: for how many the kernels cut their work; 0 without plugin.
        memory_limit_mb: what the builder was allowed; None is as much as it wants.
        builder: ``bindings`` or ``trtexec``, which have defaults of their own.
        settings: what the builder is asked for, of which :data:`building.SETTINGS` counts the
            changes.
        model_files: sha256 of the lowered model's files.
    """

    model: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    bits: str = Field(pattern=r"^w[2-8]a[2-8]$")
    target: str = Field(pattern=r"^trt(-int8)?$")
    shapes: dict[str, Sizes]
    runtime: str = Field(pattern=r"^trt(-rtx)?$")
    tensorrt: str = Field(pattern=r"^[0-9A-Za-z.+]{1,32}$")
    capabilities: list[str] = Field(min_length=1)
    plugin: str = Field(max_length=32)
    multiprocessors: int = Field(ge=0)
    memory_limit_mb: int | None
    builder: str = Field(pattern=r"^(bindings|trtexec)$")
    settings: int = Field(ge=1)
    model_files: dict[str, str]

    @property
    def name(self) -> str:
        """Of its files, without suffix."""
        shapes = "-".join(
            f"{axis}{sizes[0]}" if sizes[0] == sizes[-1] else f"{axis}{sizes[0]}to{sizes[-1]}"
            for axis, sizes in self.shapes.items()
        )
        sm = self.capabilities[0]
        sm = sm if len(self.capabilities) == 1 else f"{sm}to{self.capabilities[-1]}"
        parts = (
            self.model, self.bits, self.target if self.target != "trt" else "", shapes,
            f"{self.runtime}{self.tensorrt}", f"sm{sm}", self.plugin and f"plugin{self.plugin}",
            self.key,
        )  # fmt: skip
        return "-".join(filter(None, parts)).lower()

    @property
    def key(self) -> str:
        """A hash of everything here."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def refusal(self, here: Installed, gpu: Gpu | str) -> str | None:
        """Why it does not run here, in a few words; None where it does."""
        if self.runtime != here.runtime.value:
            return f"it is for --runtime {self.runtime}"
        if self.tensorrt != here.version:
            return f"it was built by version {self.tensorrt}, this is {here}"
        if isinstance(gpu, str):
            return gpu
        if gpu.sm not in self.capabilities:
            return (
                f"it is for compute capability {', '.join(self.capabilities)}, {gpu.name} has "
                f"{gpu.sm}"
            )
        if self.plugin not in ("", PLUGIN):
            return f"its packed layers are for plugin {self.plugin}, this is {PLUGIN}"
        return None


class EngineRecord(_Strict):
    """What lies beside a plan.

    Attributes:
        identity: what decided it.
        sha256: of the plan.
        size: of the plan, bytes.
        constants: bytes of the lowered model's weights and tables.
        seconds: that building took.
        peak_mb: memory of the builder's process at its height.
    """

    format_version: Literal[2] = 2
    identity: EngineIdentity
    sha256: str = Field(pattern=_HEX)
    size: int = Field(ge=1)
    constants: int = Field(ge=0)
    seconds: float = Field(ge=0)
    peak_mb: int = Field(ge=0)

    @property
    def plan(self) -> str:
        """Name of the plan's file."""
        return f"{self.identity.name}.plan"


def engine_folder(bundle: Path) -> Path:
    """Where a bundle's engines lie; raises BundleError if that is a link to elsewhere."""
    folder = bundle / ENGINE
    if folder.is_symlink():
        raise BundleError("The folder is a link", where=folder, why="A bundle holds its files")
    return folder


@contextmanager
def writing_alone(bundle: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """The folder of engines, in which nobody else builds meanwhile; what killed builders left is
    removed.

    Args:
        bundle: the bundle's folder.
        warn: told once when another process builds there, and that this one waits for it.

    Raises:
        BundleError: the folder is a link or cannot be written.
    """
    folder = engine_folder(bundle)
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BundleError(
            "The folder of engines cannot be written", where=folder, why=str(error.strerror)
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warn(f"{_holder(folder)} This one waits until it is done.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        _remove_leftovers(folder)
        with suppress(OSError):  # nothing is built where nothing can be written; found it may be
            write_json(folder / _HOLDER, {"process": os.getpid(), "since": int(time.time())})
        try:
            yield folder
        finally:
            with suppress(OSError):
                (folder / _HOLDER).unlink()
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    for pattern in (".*.plan", ".*.json"):
        for leftover in folder.glob(pattern):
            try:
                leftover.unlink(missing_ok=True)
            except OSError as error:  # a folder of that name is no builder's
                raise BundleError(
                    "What an earlier build left cannot be removed",
                    where=leftover,
                    why=str(error.strerror),
                ) from error


def _holder(folder: Path) -> str:
    """Who builds in a folder of engines and since when, as far as it says so."""
    path = folder / _HOLDER
    try:
        text = path.read_bytes() if path.stat().st_size < _LONGEST_HOLDER else b""
        said = parse_json(text, path, BundleError)
        process, since = int(said["process"]), time.localtime(int(said["since"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, BundleError):
        return f"Another process builds an engine in {folder}."
    at = time.strftime("%H:%M:%S", since)
    return f"Process {process} builds an engine in {folder} since {at}."


def read_records(bundle: Path) -> tuple[list[EngineRecord], list[str]]:
    """Of all engines that lie in a bundle, by name; their plans are not looked at.

    Returns the records, and of each file that is none why: one that was renamed or is of another
    version must not take the others along. What is being written has a name with a dot before it.

    Raises:
        BundleError: the folder is a link.
    """
    paths = sorted(engine_folder(bundle).glob("[!.]*.json"))[:_MOST_ENGINES]
    records, refused = [], []
    for path in paths:
        try:
            records.append(read_record(path))
        except BundleError as error:
            refused.append(f"{path.name}: {error.what}: {error.why}".removesuffix(": "))
    return records, refused


def read_record(path: Path) -> EngineRecord:
    """One engine's record.

    Raises:
        BundleError: it is none, or not of its own name.
    """
    try:
        if path.is_symlink() or path.stat().st_size > min(MAX_JSON_BYTES, 1 << 20):
            raise BundleError("The engine's record is a link or too large", where=path)
        record = EngineRecord.model_validate(parse_json(path.read_bytes(), path, BundleError))
        name = record.identity.name
    except OSError as error:
        raise BundleError("The file cannot be read", where=path, why=str(error.strerror)) from error
    except (ValidationError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise BundleError(
            "The engine's record is malformed", where=path, why=first, fix=_REBUILD
        ) from error
    if path.stem != name or not _NAME.fullmatch(name):
        raise BundleError(
            "The engine's record is of another name", where=path, why=f"It says {name}",
            fix=_REBUILD,
        )  # fmt: skip
    return record


def verified_plan(bundle: Path, record: EngineRecord) -> NDArray[np.uint8]:
    """The plan mapped into memory, if it is the one that was built; raises BundleError."""
    manifest: dict[str, dict[str, Any]] = {
        record.plan: {"sha256": record.sha256, "size": record.size}
    }
    return verified_map(engine_folder(bundle), record.plan, manifest, BundleError)


def fitting_record(
    bundle: Path, target: str, files: dict[str, str], here: Installed, gpu: Gpu | str
) -> EngineRecord:
    """The engine for this machine that takes the largest sizes, and of those the smallest, too.

    So one that was built to take more than another is taken from then on.

    Args:
        bundle: the bundle's folder.
        target: the lowered variant.
        files: sha256 of its files as they are now.
        here: the TensorRT that is to run it.
        gpu: the GPU.

    Raises:
        BundleError: none fits; says of each why.
    """
    fitting: list[EngineRecord] = []
    records, refused = read_records(bundle)
    for record in records:
        own = record.identity
        why = own.refusal(here, gpu)
        if why is None and own.target != target:
            why = f"it is of the {own.target} target"
        if why is None and own.model_files != files:
            why = "the model was lowered again since"
        if why is None:
            fitting.append(record)
        else:
            refused.append(f"{own.name}: {why}")
    if not fitting:
        raise BundleError(
            f"The bundle has no engine for {here} on this machine",
            where=engine_folder(bundle),
            why="; ".join(refused) or "No engine was built",
            fix=f"Run: {build_command(bundle, target, here.runtime.value)}",
        )
    return max(fitting, key=_reach)


def build_command(
    bundle: Path, target: str, runtime: str, shapes: Mapping[str, Sequence[int]] | None = None
) -> str:
    """What builds an engine, for people to copy; without shapes of the usual ones."""
    words = ["mpq-build", str(bundle), "--runtime", runtime]
    if target != Target.TRT:
        words += ["--target", target]
    if shapes is not None:
        words += ["--shapes", shapes_option(shapes)]
    return " ".join(words)


def _reach(record: EngineRecord) -> tuple[list[int], list[int], int]:
    own = record.identity
    sizes = [sizes for _, sizes in sorted(own.shapes.items())]
    return [largest for *_, largest in sizes], [-least for least, *_ in sizes], own.settings
