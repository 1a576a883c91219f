"""What a reconstruction has finished, so that a run that was stopped goes on behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from ..errors import UserError
from ..tensor_files import staged_tensor_file

_NAME = "name"


Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]
"""Type and shape of every tensor of a part."""


class FinishedParts(Protocol):
    """Results by the names of what they are of, such as a stage and its block."""

    def load(self, name: str, layout: Layout) -> dict[str, torch.Tensor] | None:
        """The tensors of a part that is finished, else None."""

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """A part is finished."""


class NothingKept:
    """For runs that are not resumed."""

    def load(self, name: str, layout: Layout) -> dict[str, torch.Tensor] | None:
        """None."""
        return None

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing."""


NOTHING_KEPT = NothingKept()


@dataclass(frozen=True)
class KeptParts:
    """A file for each finished part, in a folder that holds nothing else and is made if need be."""

    folder: Path

    def load(self, name: str, layout: Layout) -> dict[str, torch.Tensor] | None:
        """Raises UserError where the part's file is damaged, or holds anything but ``layout``, of
        finite numbers."""
        from safetensors import safe_open

        path = self._file(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                own = (file.metadata() or {}).get(_NAME)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        if own != name:
            raise _damaged(path, f"It is of {own!r}, not of {name!r}")
        found = {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()}
        if found != {key: (dtype, tuple(shape)) for key, (dtype, shape) in layout.items()}:
            raise _damaged(path, "Its tensors are not those of that part")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise _damaged(path, "A number in it is not finite")
        return tensors

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Whole or not at all."""
        from safetensors.torch import save_file

        self.folder.mkdir(exist_ok=True)
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        with staged_tensor_file(self._file(name)) as stage:
            save_file(plain, stage, {_NAME: name})

    def _file(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return self.folder / f"{digest}.safetensors"


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        "A finished part of the run cannot be read",
        where=path,
        why=why,
        fix="Delete it: that part is computed again",
    )
