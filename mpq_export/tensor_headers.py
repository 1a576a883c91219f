"""What safetensors files hold, from their headers alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeGuard

from .errors import CheckpointError
from .files import parse_json

_MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
_LENGTH_BYTES = 8


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name; no tensor is read. Raises CheckpointError unless header and length agree."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
                raise _malformed(path, f"It claims a header of {length} bytes in {size}")
            header = parse_json(stream.read(length), path, CheckpointError)
    except OSError as error:
        raise CheckpointError(
            "The file cannot be read", where=path, why=str(error.strerror)
        ) from error
    header.pop("__metadata__", None)
    shapes, end = {}, 0
    for name, entry in header.items():
        shape, last = _entry(path, name, entry)
        shapes[name], end = shape, max(end, last)
    if size != _LENGTH_BYTES + length + end:
        raise _malformed(path, f"It has {size} bytes, its header speaks of {8 + length + end}")
    return shapes


def elements(shapes: dict[str, tuple[int, ...]]) -> int:
    """Values in all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def _entry(path: Path, name: str, entry: object) -> tuple[tuple[int, ...], int]:
    if isinstance(entry, dict):
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if _whole_numbers(shape) and _whole_numbers(offsets) and len(offsets) == 2:
            return tuple(shape), int(offsets[1])
    raise _malformed(path, f"The entry of {name!r} is malformed")


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _malformed(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "The file is no whole safetensors file", where=path, why=why, fix="Copy it again"
    )
