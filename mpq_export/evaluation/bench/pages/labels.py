"""Names beside points: near them, and never over each other or over another point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LETTER = 8.5
_OTHERS = {**dict.fromkeys("mMW", 13.0), "w": 11.0, **dict.fromkeys("iljftr-.,() ", 5.2)}
"""Widths of letters in pixels, of a wide typeface, as large as pages for phones show them."""
_HEIGHT, _BASELINE = 14, 4
"""Of a line of text, and how far it reaches below where it is put."""
_REACHES = (8, 16, 26, 38, 52, 68)
_TIED = 12
"""Pixels from which a line joins a name to its point."""


def text_width(said: str) -> float:
    """At most what a line of text takes, in pixels."""
    return sum(_OTHERS.get(letter, _LETTER) for letter in said)


@dataclass(frozen=True)
class Frame:
    """What names stay within, in pixels."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Label:
    """A name beside a point.

    Attributes:
        name: what is written.
        x, y: where the text begins or ends, on its baseline.
        anchor: ``start`` or ``end``.
        tied: whether a line joins it to its point, which is farther away.
    """

    name: str
    x: float
    y: float
    anchor: str
    tied: bool

    @property
    def span(self) -> tuple[float, float]:
        """From left to right."""
        width = text_width(self.name)
        return (self.x, self.x + width) if self.anchor == "start" else (self.x - width, self.x)

    def meets(self, other: Label) -> bool:
        """Whether the two would be written over each other."""
        ours, theirs = self.span, other.span
        apart = ours[1] < theirs[0] or theirs[1] < ours[0]
        return not apart and abs(self.y - other.y) < _HEIGHT

    def covers(self, x: float, y: float, radius: float) -> bool:
        """Whether it would be written over a point."""
        begin, end = self.span
        return begin - radius < x < end + radius and (
            self.y - _HEIGHT < y + radius and y - radius < self.y + _BASELINE
        )

    def lies_in(self, frame: Frame) -> bool:
        """Whether all of it is shown."""
        begin, end = self.span
        return (
            frame.left <= begin
            and end <= frame.right
            and frame.top + _HEIGHT <= self.y + _BASELINE
            and self.y + _BASELINE <= frame.bottom
        )


def placed_labels(
    named: Sequence[tuple[str, float, float]],
    points: Sequence[tuple[float, float]],
    frame: Frame,
    radius: float,
) -> dict[int, Label]:
    """Labels by their places in ``named``; a name for which there is no room has none.

    Args:
        named: names and their points, the first of which choose first.
        points: all that may not be covered.
        frame: what they stay within.
        radius: of the points.
    """
    placed: dict[int, Label] = {}
    for index, (name, x, y) in enumerate(named):
        for label in _candidates(name, x, y):
            if (
                label.lies_in(frame)
                and not any(label.meets(other) for other in placed.values())
                and not any(label.covers(*point, radius) for point in points)
            ):
                placed[index] = label
                break
    return placed


def _candidates(name: str, x: float, y: float) -> list[Label]:
    """Around the point, the nearest first; above and to the right before elsewhere."""
    found = []
    for reach in _REACHES:
        tied = reach >= _TIED
        for down in (-reach, 5, reach + 9):
            found.append(Label(name, x + reach, y + down, "start", tied))
            found.append(Label(name, x - reach, y + down, "end", tied))
        for along in (8, -8):
            start = "start" if along > 0 else "end"
            found.append(Label(name, x + along, y - reach, start, tied))
            found.append(Label(name, x + along, y + reach + 9, start, tied))
    return found
