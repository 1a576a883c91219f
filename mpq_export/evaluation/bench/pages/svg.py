"""What charts are made of: axes, scales, and SVG that takes its colours from its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SERIES = 8
"""Colours, grey among them."""
LIGHT = {
    "ink": "#1c1e21", "soft": "#5c6470", "line": "#d5d9e0", "page": "#ffffff",
    "s0": "#5c6470", "s1": "#0b6fb8", "s2": "#c2410c", "s3": "#15803d", "s4": "#7c3aed",
    "s5": "#9a7d0a", "s6": "#be185d", "s7": "#0e7490",
}  # fmt: skip
DARK = {
    "ink": "#e8eaed", "soft": "#a3abb8", "line": "#3a404a", "page": "#16181c",
    "s0": "#a3abb8", "s1": "#63b3f0", "s2": "#fb923c", "s3": "#4ade80", "s4": "#b794f6",
    "s5": "#fbbf24", "s6": "#f472b6", "s7": "#22d3ee",
}  # fmt: skip
_SUBDIVISIONS = (1, 2, 5)
_WIDE = 4
"""A range of larger ratio is shown on a logarithmic scale."""
_DEEPEST, _ZERO = 1e-3, 0.08
"""Of such a scale that begins at 0: its least value beside that in units of the largest, and what
share of its length lies between the two."""


@dataclass(frozen=True)
class Scale:
    """A way from values to pixels.

    Attributes:
        low, high: values at the ends; positive where it is logarithmic.
        start, end: pixels at the ends.
        logarithmic: whether equal distances are equal ratios.
        zero: whether 0 lies at the start, apart from a logarithmic scale.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    zero: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """For all values, with a margin; from zero unless they differ by much."""
        finite = [value for value in values if math.isfinite(value)] or [1.0]
        low, high = min(finite), max(finite)
        if low > 0 and high / low > _WIDE:
            return cls(low / 1.3, high * 1.3, start, end, True)
        positive = [value for value in finite if value > high * _DEEPEST]
        if low == 0 < high and high / min(positive) > _WIDE:
            return cls(min(positive) / 1.3, high * 1.3, start, end, True, True)
        bottom = min(0.0, low)
        return cls(bottom, high + 0.12 * ((high - bottom) or 1.0), start, end, False)

    def __call__(self, value: float) -> float:
        """The pixel of a value; what lies outside is at the end."""
        if self.zero and value <= 0:
            return self.start
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        if self.zero:
            share = _ZERO + (1 - _ZERO) * share
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values along it."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = _SUBDIVISIONS if last - first <= 3 else (1,)
            every = [10.0**power * step for power in range(first, last + 1) for step in steps]
            found = [value for value in every if self.low <= value <= self.high]
            return [0.0, *found] if self.zero else found
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * s for s in (1, 2, 5, 10) if power * s >= rough)
        count = math.floor((self.high - self.low) / step + 1e-9)
        first_tick = math.ceil(self.low / step) * step
        every = [first_tick + step * k for k in range(count + 1)]
        return [value for value in every if value <= self.high]


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "soft") -> str:
    """A line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--{kind})" '
        f'stroke="var(--page)" stroke-width="3" paint-order="stroke">'
        f"{escape(said)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, extra: str = "") -> str:
    """A straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" {extra}/>'
    )


def axes(x: Scale, y: Scale, x_title: str, y_title: str) -> list[str]:
    """Grid, ticks and titles; ``y`` runs from the bottom up."""
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(line(x.start, at, x.end, at, "var(--line)"))
        parts.append(text(x.start - 5, at + 4, f"{value:g}", "end"))
    for value in x.ticks():
        at = x(value)
        parts.append(line(at, y.start, at, y.start + 4, "var(--soft)"))
        parts.append(text(at, y.start + 17, f"{value:g}", "middle"))
    parts.append(line(x.start, y.start, x.end, y.start, "var(--soft)"))
    parts.append(text((x.start + x.end) / 2, y.start + 35, x_title, "middle"))
    parts.append(text(4, y.end - 12, y_title))
    return parts


def chart(width: int, height: int, parts: Sequence[str], label: str, name: str) -> str:
    """The element, as it lies in a page that defines the colours."""
    return (
        f'<svg id="{name}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(label, quote=True)}" font-family="system-ui, sans-serif" '
        f'font-size="12">{"".join(parts)}</svg>'
    )


def variables(colours: dict[str, str]) -> str:
    """CSS declarations of colours."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def standalone(svg: str) -> str:
    """A chart as a file of its own, with a background, for light and dark pages."""
    style = (
        f"<style>svg{{{variables(LIGHT)}background:var(--page)}}"
        f"@media(prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}</style>"
    )
    head, _, rest = svg.partition(">")
    return f"{head}>{style}{rest}\n"
