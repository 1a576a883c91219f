"""How rows are told apart in pictures: by colour, and by shape where there are more than colours.

A grid of methods and bits takes a colour for each method and a shape for each width; other rows
begin the colours again in the next shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..report import RowReport
from ..rows import Kind
from .svg import SERIES

MOST_NAMED = SERIES
"""Rows that all have their names beside their points; of more, those on the front have."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Mark:
    """Of a row.

    Attributes:
        name: of its colour in ``svg``: ``s0`` is grey, the others are colours.
        shape: number of its shape, 0 to 3: circle, square, triangle, diamond.
    """

    name: str
    shape: int = 0

    @property
    def colour(self) -> str:
        """As CSS."""
        return f"var(--{self.name})"

    @property
    def dashes(self) -> str:
        """Of a line, as SVG's ``stroke-dasharray``; empty for a whole one."""
        return _DASHES[self.shape]

    def drawn(self, x: float, y: float, radius: float, extra: str = "") -> str:
        """The shape around a point, about as large as a circle of that radius, in pixels."""
        if self.shape == 0:
            place = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
        elif self.shape == 1:
            side = 1.8 * radius
            place = (
                f'<rect x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side:.1f}" '
                f'height="{side:.1f}"'
            )
        else:
            corners = _TRIANGLE if self.shape == 2 else _DIAMOND
            points = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in corners)
            place = f'<polygon points="{points}"'
        return f'{place} fill="{self.colour}" {extra}/>'


_TRIANGLE = ((0.0, -1.3), (1.2, 0.9), (-1.2, 0.9))
_DIAMOND = ((0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0))
_SHAPES = len(_DASHES)


@dataclass(frozen=True)
class Marks:
    """All rows' marks.

    Attributes:
        by_row: by the rows' names.
        legend: what the marks mean, in order; empty where points have their names beside them.
    """

    by_row: Mapping[str, Mark]
    legend: tuple[tuple[Mark, str], ...]


def marks_of(rows: Sequence[RowReport]) -> Marks:
    """Marks that no two rows share, as long as there are colours and shapes for that."""
    if len(rows) <= MOST_NAMED:
        return Marks({row.name: Mark(f"s{index}") for index, row in enumerate(rows)}, ())
    baselines = [row for row in rows if row.kind != Kind.BUNDLE]
    bundles = [row for row in rows if row.kind == Kind.BUNDLE]
    methods, bits = _unique(row.method for row in bundles), _unique(map(_bits, bundles))
    grid = {(row.method, _bits(row)) for row in bundles}
    if len(grid) < len(bundles) or len(methods) >= SERIES or len(bits) > _SHAPES:
        by_row = {row.name: _next(index) for index, row in enumerate(rows)}
        return Marks(by_row, tuple((by_row[row.name], row.name) for row in rows))
    by_row = {row.name: Mark("s0", index) for index, row in enumerate(baselines)}
    legend = [(by_row[row.name], row.name) for row in baselines]
    for row in bundles:
        by_row[row.name] = Mark(f"s{1 + methods.index(row.method)}", bits.index(_bits(row)))
    legend += [(Mark(f"s{1 + index}"), method) for index, method in enumerate(methods)]
    legend += [(Mark("ink", index), width) for index, width in enumerate(bits)]
    return Marks(by_row, tuple(legend))


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _bits(row: RowReport) -> str:
    """What was asked for; layers that are kept at 8 bits hardly raise the average."""
    return f"w{round(row.weight_bits)}a{row.activation_bits}"


def _next(index: int) -> Mark:
    """The first is full precision where there is one, and alone grey."""
    turn, series = divmod(max(index - 1, 0), SERIES - 1)
    return Mark("s0") if index == 0 else Mark(f"s{1 + series}", turn % _SHAPES)
