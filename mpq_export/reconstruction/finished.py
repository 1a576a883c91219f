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
_TYPES = {"F32": torch.float32, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8}
"""What parts hold, by safetensors' names."""


@dataclass(frozen=True)
class TensorLayout:
    """What a tensor of a part is: type, shape, and the least and greatest number in it, of the
    whole or of every row, ``[O]``."""

    dtype: torch.dtype
    shape: Sequence[int]
    least: float
    greatest: float | torch.Tensor

    def holds(self, value: torch.Tensor) -> bool:
        """Whether all numbers of a tensor of that type and shape are between the two; NaN never
        is."""
        greatest = self.greatest
        if isinstance(greatest, torch.Tensor):
            greatest = greatest.reshape(-1, *[1] * (value.dim() - 1))
        return bool(((value >= self.least) & (value <= greatest)).all())


Layout = Mapping[str, TensorLayout]
"""Of every tensor of a part, by name."""


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
        """Raises UserError where the part's file is damaged, or holds anything but ``layout``; of
        such a file no tensor is read."""
        from safetensors import safe_open

        path = self._file(name)
        if not path.exists():
            return None
        wanted = {key: (own.dtype, tuple(own.shape)) for key, own in layout.items()}
        try:
            with safe_open(path, framework="pt") as file:
                own = (file.metadata() or {}).get(_NAME)
                if own != name:
                    raise _damaged(path, f"It is of {own!r}, not of {name!r}")
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                found = {
                    key: (_TYPES.get(part.get_dtype()), tuple(part.get_shape()))
                    for key, part in slices.items()
                }
                if found != wanted:
                    raise _damaged(path, "Its tensors are not those of that part")
                tensors = {key: file.get_tensor(key) for key in layout}
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        for key, value in tensors.items():
            if not layout[key].holds(value):
                raise _damaged(path, f"A number of {key!r} is out of range")
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
