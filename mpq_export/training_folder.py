"""The working folder of a training run: what it began with, and how far it is.

It stands beside the output until that is complete, and is all that ``--resume`` needs. The
processes of one run find the same start in it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .files import parse_json, staged_file, write_json
from .packages import installed_version

if TYPE_CHECKING:
    import torch
    from torch import nn

_RUN, _START, _CONDITIONS, _STATE = (
    "run.json",
    "start",
    "conditions.safetensors",
    "state.safetensors",
)


class ResumeError(UserError):
    """A training run that cannot be gone on with, or must not be overwritten."""


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to be gone on with; ``model`` is a hash of its weights."""

    bits: str
    recipe: dict[str, object]
    inference_steps: int
    seed: int
    model: str
    torch: str

    @classmethod
    def of(
        cls, model: nn.Module, bits: str, recipe: dict[str, object], inference_steps: int, seed: int
    ) -> RunIdentity:
        """The identity of a run on a model."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in model.state_dict().items():
            digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy())
        version = installed_version("torch") or ""
        return cls(bits, recipe, inference_steps, seed, digest.hexdigest(), version)


@dataclass(frozen=True)
class TrainingFolder:
    """The folder of the run that makes the bundle ``out``."""

    path: Path

    @classmethod
    def of(cls, out: Path) -> TrainingFolder:
        """Its working folder: a sibling with the suffix ``.training``."""
        return cls(out.with_name(f"{out.name}.training"))

    @property
    def start(self) -> Path:
        """The bundle as first quantised."""
        return self.path / _START

    @property
    def state_file(self) -> Path:
        """The latest saved state, if any."""
        return self.path / _STATE

    def is_begun(self) -> bool:
        """Whether a whole start lies there."""
        return (self.path / _RUN).is_file()

    def require_free(self) -> None:
        """Raise ResumeError if a run lies there: hours of work are not overwritten unasked."""
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
        found = parse_json(file.read_bytes(), file, ResumeError)
        wanted = asdict(identity)
        other = _differences(wanted, found if isinstance(found, dict) else {})
        if other:
            raise ResumeError(
                "The training run there is another one",
                where=self.path,
                why=f"It differs in {', '.join(other)}",
                fix="Give the options it was started with, or delete that folder",
            )

    def begin(self, identity: RunIdentity, conditions: Mapping[str, torch.Tensor] | None) -> None:
        """The start has been written: write what belongs to it, and with that begin the run."""
        from safetensors.torch import save_file

        if conditions is not None:
            plain = {name: value.contiguous() for name, value in conditions.items()}
            with staged_file(self.path / _CONDITIONS) as stage:
                save_file(plain, stage)
        with staged_file(self.path / _RUN) as stage:
            write_json(stage, asdict(identity))

    def conditions(self) -> dict[str, torch.Tensor] | None:
        """What the model is conditioned on, or None where that is drawn."""
        from safetensors.torch import load_file

        file = self.path / _CONDITIONS
        return load_file(file) if file.exists() else None

    def clear(self) -> None:
        """The run is over, or never began: remove what it left."""
        shutil.rmtree(self.path, ignore_errors=True)


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
