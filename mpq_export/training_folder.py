"""The working folder of a run that learns: what it is, what it has finished, how far it is.

It stands beside the output until that is complete, and is all that ``--resume`` needs. The
processes of one run find the same start in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .bundle import Bundle, read_bundle
from .errors import BundleError, UserError
from .files import MANIFEST, MAX_JSON_BYTES, parse_json, staged_file, write_json
from .leftovers import locked_folder, remove_leftovers
from .packages import installed_version
from .tensor_files import staged_tensor_file

if TYPE_CHECKING:
    import torch

    from .checkpoints import Checkpoint
    from .checkpoints.weights import WeightsRecord
    from .export_request import ExportRequest

_RUN, _START, _PARTS, _CONDITIONS, _STATE = (
    "run.json",
    "start",
    "parts",
    "conditions.safetensors",
    "state.safetensors",
)
_FILES = (_RUN, _CONDITIONS, _STATE)
_ANEW = "Delete the folder to start anew"


class ResumeError(UserError):
    """A training run that cannot be gone on with, or must not be overwritten."""


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to be gone on with.

    Attributes:
        bits, recipe, inference_steps, seed, prompts: as in the request.
        model_config, scheduler_config: the checkpoint's.
        weights: a hash of the full-precision model's.
        torch, mpq_export: their versions.
        num_processes: that share an update; what one remembers of its images is not another's.
        mixed_precision: as accelerate names it.
    """

    bits: str
    recipe: Mapping[str, object]
    inference_steps: int
    seed: int
    prompts: Sequence[str] | None
    model_config: Mapping[str, object]
    scheduler_config: Mapping[str, object]
    weights: str
    torch: str
    mpq_export: str
    num_processes: int
    mixed_precision: str

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        weights: WeightsRecord,
        request: ExportRequest,
        num_processes: int,
        mixed_precision: str,
    ) -> RunIdentity:
        """The identity of the run that a request asks for; ``weights`` are the checkpoint's."""
        return cls(
            bits=str(request.bits),
            recipe=request.recipe.model_dump(mode="json"),
            inference_steps=request.num_steps,
            seed=request.seed,
            prompts=request.prompts,
            model_config=checkpoint.model_config,
            scheduler_config=checkpoint.scheduler_config,
            weights=weights.sha256,
            torch=installed_version("torch") or "",
            mpq_export=__version__,
            num_processes=num_processes,
            mixed_precision=mixed_precision,
        )

    def plain(self) -> dict[str, object]:
        """As JSON would give it back."""
        result: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return result


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of the run that makes the bundle ``out``."""

    path: Path

    @classmethod
    def of(cls, out: Path) -> TrainingFolder:
        """Its working folder: a sibling with the suffix ``.training``."""
        out = Path(os.path.abspath(out))
        return cls(out.with_name(f"{out.name}.training"))

    @property
    def start(self) -> Path:
        """The bundle as first quantised."""
        return self.path / _START

    @property
    def parts(self) -> Path:
        """What of the reconstruction is finished; a folder that need not be there."""
        return self.path / _PARTS

    @property
    def state_file(self) -> Path:
        """The latest saved state, if any."""
        return self.path / _STATE

    def is_begun(self) -> bool:
        """Whether a run lies there."""
        return (self.path / _RUN).is_file()

    def is_quantized(self) -> bool:
        """Whether a whole start lies there, which appears in one piece."""
        return self.start.is_dir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process works on the run until the block or this process ends.

        The folder is made if need be, and goes again if nothing was put there; what killed
        processes were writing is removed. Raises ResumeError where another process is at work, and
        where the file system has no locks.
        """
        try:
            with locked_folder(self.path):
                self._remove_half_written()
                try:
                    yield
                finally:
                    if self.path.is_dir() and not any(self.path.iterdir()):
                        self.path.rmdir()
        except BlockingIOError as error:
            raise ResumeError(
                "Another process works on this run",
                where=self.path,
                fix="Wait for it, or choose another --out",
            ) from error

    def require_free(self) -> None:
        """Raise ResumeError if a run lies there, or anything else that is not ours: hours of work
        are not overwritten unasked."""
        foreign = self._foreign()
        if foreign is not None:
            raise ResumeError(
                "The folder that the training run needs holds other files",
                where=foreign,
                fix="Choose another --out",
            )
        if self.is_begun():
            raise ResumeError(
                "An unfinished training run is there",
                where=self.path,
                fix="Go on with it with --resume, or delete that folder",
            )

    def require(self, identity: RunIdentity) -> None:
        """Raise ResumeError unless a run of this identity lies there."""
        if not self.is_begun():
            raise ResumeError(
                "There is no training run to resume",
                where=self.path,
                fix="Leave --resume out to start one",
            )
        file = self.path / _RUN
        with file.open("rb") as stream:
            found = parse_json(stream.read(MAX_JSON_BYTES), file, ResumeError)
        other = _differences(identity.plain(), found)
        if other:
            raise ResumeError(
                "The training run there is another one",
                where=self.path,
                why=f"It differs in {', '.join(other)}",
                fix="Give the options it was started with, or delete that folder",
            )

    def begin(self, identity: RunIdentity, conditions: Mapping[str, torch.Tensor] | None) -> None:
        """Write what belongs to the run, and with that begin it: where nothing is reconstructed, as
        soon as the start has been written, else before that."""
        from safetensors.torch import save_file

        plain = {name: value.contiguous() for name, value in (conditions or {}).items()}
        with staged_tensor_file(self.path / _CONDITIONS) as stage:
            save_file(plain, stage)
        with staged_file(self.path / _RUN) as stage:
            write_json(stage, identity.plain())

    def conditions(self) -> dict[str, torch.Tensor] | None:
        """What the model is conditioned on, or None where that is drawn."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.path / _CONDITIONS
        try:
            return load_file(file) or None
        except (SafetensorError, OSError) as error:
            raise ResumeError(
                "The training run's conditions cannot be read",
                where=file,
                why=str(error),
                fix=_ANEW,
            ) from error

    def start_bundle(self) -> Bundle:
        """The bundle as first quantised; raises ResumeError if it is missing or damaged."""
        try:
            return read_bundle(self.start)
        except BundleError as error:
            raise ResumeError(
                "What the training run began with cannot be read",
                where=error.where,
                why=". ".join(part for part in (error.what, error.why) if part),
                fix=_ANEW,
            ) from error

    def name(self) -> str:
        """Of this run and no other: a hash of what it is and of what it began with."""
        digest = hashlib.blake2b(digest_size=16)
        for file in (self.path / _RUN, self.start / MANIFEST):
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise ResumeError(
                    "The training run cannot be read",
                    where=file,
                    why=str(error.strerror),
                    fix=_ANEW,
                ) from error
        return digest.hexdigest()

    def clear(self) -> None:
        """The run is over, or never began: remove what it left, and nothing else."""
        if not self.path.is_dir():
            return
        # First what makes it a run: killed from here on, nothing is left to resume.
        (self.path / _RUN).unlink(missing_ok=True)
        remove_leftovers(self.start)
        shutil.rmtree(self.start, ignore_errors=True)
        if not self.parts.is_symlink():
            shutil.rmtree(self.parts, ignore_errors=True)
        for file in self.path.iterdir():
            if _is_own_file(file):
                file.unlink()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _remove_half_written(self) -> None:
        remove_leftovers(self.start)
        for file in self.path.iterdir():
            if _is_own_file(file) and file.name not in _FILES:
                file.unlink()

    def _foreign(self) -> Path | None:
        """Something there that no training run wrote, the folder itself included."""
        if not self.path.is_dir() or self.path.is_symlink():
            return self.path if os.path.lexists(self.path) else None
        for path in self.path.iterdir():
            half_written = path.name.startswith(f".{_START}.")
            if path.name not in (_START, _PARTS) and not half_written and not _is_own_file(path):
                return path
        return None


def _is_own_file(path: Path) -> bool:
    """Whether it has the name of a file of ours, or of one that was being written."""
    staged = any(
        path.name.startswith(f".{Path(name).stem}.") and path.suffix == Path(name).suffix
        for name in _FILES
    )
    return path.is_file() and (path.name in _FILES or staged)


def _differences(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """Names whose values differ, nested ones with dots."""
    result: list[str] = []
    for name in sorted({*wanted, *found}):
        one, other = wanted.get(name), found.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            result += [f"{name}.{inner}" for inner in _differences(one, other)]
        elif one != other:
            result.append(name)
    return result
