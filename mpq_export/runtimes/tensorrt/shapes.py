"""For which sizes an engine is built: the free axes of a lowered model and their ranges.

A size is a number, ``LEAST..LARGEST``, or ``LEAST..USUAL..LARGEST``: TensorRT tunes for the usual
one. On the command line an axis is named, ``batch:1..8,tokens:77``, or an input's whole shape is
given as trtexec's users write it, ``sample:1..8x4x64x64``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...conditions import BATCH, TOKENS, Condition
from ...errors import RuntimeUnavailable, UserError
from ...lowering.shapes import Dims

Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Least, usual and largest shape of every input that has free axes."""
LARGEST_BATCH = 4
_MOST = 1 << 20
_SIZE = re.compile(r"[0-9]{1,7}(\.\.[0-9]{1,7}){0,2}")


@dataclass(frozen=True)
class Range:
    """Of one free axis; ``1 <= least <= usual <= largest``."""

    least: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.largest <= _MOST:
            raise ValueError(f"{self.least}..{self.usual}..{self.largest} does not rise from 1")

    @classmethod
    def parse(cls, text: str) -> Range:
        """One, two or three numbers; of two the largest is the usual one. Raises ValueError."""
        if not _SIZE.fullmatch(text):
            raise ValueError(f"'{text}' is neither a number nor A..B nor A..B..C")
        sizes = [int(size) for size in text.split("..")]
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])

    def __str__(self) -> str:
        if self.least == self.largest:
            return str(self.least)
        return f"{self.least}-{self.largest}"


Ranges = Mapping[str, Range]
"""By the name of the axis."""


def default_ranges(inputs: Mapping[str, Dims], conditions: Sequence[Condition]) -> dict[str, Range]:
    """1 to 4 images, tuned for one; as many tokens as the model's own text has, or fewer."""
    ranges = {BATCH: Range(1, 1, LARGEST_BATCH)}
    tokens = [spec.shape[0] for spec in conditions if TOKENS in spec.free_axes.values()]
    if tokens:
        ranges[TOKENS] = Range(1, max(tokens), max(tokens))
    free = {dim for dims in inputs.values() for dim in dims if isinstance(dim, str)}
    if free - ranges.keys():
        raise RuntimeUnavailable(
            "The model has free axes that are not known here",
            where=", ".join(sorted(free - ranges.keys())),
            fix="Lower the bundle again: mpq-export --ckpt BUNDLE --target trt",
        )
    return {name: ranges[name] for name in ranges if name in free}


def parse_shapes(text: str, inputs: Mapping[str, Dims], defaults: Ranges) -> dict[str, Range]:
    """The ranges that ``--shapes`` asks for, the defaults where it says nothing.

    Raises:
        UserError: a name is not known, a fixed axis would change, or two entries disagree.
    """
    found: dict[str, Range] = {}
    for entry in filter(None, text.split(",")):
        name, colon, sizes = entry.strip().rpartition(":")
        if name in defaults and name not in inputs:
            pairs: list[tuple[int | str, str]] = [(name, sizes)]
        elif colon and name in inputs and len(sizes.split("x")) == len(inputs[name]):
            pairs = list(zip(inputs[name], sizes.split("x"), strict=True))
        else:
            raise _refused(entry, f"It is no axis or input of the model: {_known(inputs)}")
        for dim, size in pairs:
            try:
                given = Range.parse(size)
            except ValueError as error:
                raise _refused(entry, str(error)) from error
            if isinstance(dim, int):
                if given != Range(dim, dim, dim):
                    raise _refused(entry, f"An axis of {dim} is fixed: {_known(inputs)}")
            elif found.setdefault(dim, given) != given:
                raise _refused(entry, f"The axis '{dim}' was given another range before")
    return {**defaults, **found}


def shapes_option(shapes: Mapping[str, Sequence[int]]) -> str:
    """How ``--shapes`` asks for least, usual and largest length of every axis."""
    return ",".join(
        f"{axis}:{sizes[0] if sizes[0] == sizes[-1] else '..'.join(map(str, sizes))}"
        for axis, sizes in shapes.items()
    )


def profile(inputs: Mapping[str, Dims], ranges: Ranges) -> Profile:
    """What TensorRT is told of every input with free axes."""

    def shapes(dims: Dims) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        of = [Range(dim, dim, dim) if isinstance(dim, int) else ranges[dim] for dim in dims]
        return (
            tuple(one.least for one in of),
            tuple(one.usual for one in of),
            tuple(one.largest for one in of),
        )

    free = {n: dims for n, dims in inputs.items() if any(isinstance(dim, str) for dim in dims)}
    return {name: shapes(dims) for name, dims in free.items()}


def _known(inputs: Mapping[str, Dims]) -> str:
    return ", ".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in inputs.items())


def _refused(entry: str, why: str) -> UserError:
    return UserError(
        "The engine's shapes are not understood",
        where=f"--shapes {entry}",
        why=why,
        fix="Write batch:1..8, or an input's shape such as sample:1..8x4x64x64",
    )
