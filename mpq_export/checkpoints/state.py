"""What passes between the steps of loading: tensors by name, and what was decided about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """Tensors by name, mapped from their file where its format allows.

    ``notes`` are sentences on what was chosen or left out on the way to them.
    """

    tensors: Tensors
    notes: tuple[str, ...] = ()

    def then(self, tensors: Tensors, *notes: str) -> State:
        """The state after one more step."""
        return State(tensors, (*self.notes, *notes))


def left_out(names: Iterable[str]) -> str:
    """A note on tensors that belong to something else, counted by the first part of their names."""
    groups = Counter(name.partition(".")[0] for name in names)
    counts = [f"{name} ({count} tensors)" for name, count in groups.items() if count > 1]
    single = sum(count == 1 for count in groups.values())
    if single:
        counts.append(f"{single} single {'tensors' if single > 1 else 'tensor'}")
    return f"Left out of the file: {', '.join(counts)}"


def some(names: Iterable[str]) -> str:
    """The first three names, for messages."""
    return ", ".join(list(names)[:3])


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # torch announces its list of errors in a line of its own.
    return lines[1].strip() if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def cannot_be_read(where: object, error: BaseException) -> CheckpointError:
    """The error for a file or folder that its library, or the system, does not read."""
    return CheckpointError(
        "The checkpoint cannot be read",
        where=str(where),
        why=(isinstance(error, OSError) and error.strerror) or first_line(error),
        fix="Check that it is complete, and that you may read it",
    )


def require_text_keys(value: object) -> Mapping[str, object] | None:
    """``value`` if it is a mapping with text keys alone, else None."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    return None
