"""The share of this process in work that several do without speaking to each other.

``torchrun`` and ``accelerate launch`` number their processes in the environment; so can anybody.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import UserError

_NUMBER, _COUNT, _HERE = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_MOST = 1 << 20


@dataclass(frozen=True)
class Share:
    """One of ``count`` equal shares: every ``count``-th part of the work, from ``number`` on."""

    number: int
    count: int

    def of(self, parts: int) -> range:
        """Which of so many parts of the work are this share's."""
        return range(self.number, parts, self.count)

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


WHOLE = Share(0, 1)
"""All of the work."""


def launched_share() -> Share:
    """What the launcher of this process wants done by it; all, where there is none.

    Raises UserError where the environment says something that cannot be.
    """
    number, count = _whole_number(_NUMBER, 0), _whole_number(_COUNT, 1)
    if not 0 <= number < count <= _MOST:
        raise UserError(
            "The launcher's number of this process cannot be",
            where=f"{_NUMBER}, {_COUNT}",
            why=f"It is process {number} of {count}",
            fix=f"Set {_NUMBER} to 0 to {_COUNT} - 1, or neither",
        )
    return Share(number, count)


def take_own_gpu() -> None:
    """Torch's current GPU becomes that of this process's number on the machine, in turn.

    Without torch, a GPU or a launcher nothing happens.
    """
    if _HERE not in os.environ:
        return
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(_whole_number(_HERE, 0) % torch.cuda.device_count())


def _whole_number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UserError(
            "The launcher's number is none", where=name, why=f"It is '{text}'", fix="Unset it"
        )
    return int(text)
