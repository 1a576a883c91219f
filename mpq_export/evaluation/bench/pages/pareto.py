"""The picture of a run: time against quality, with the intervals of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..metrics import SENSES, Metric
from ..report import Report, RowReport
from .svg import Scale, axes, chart, colour, line, text

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 34, 46
_LABEL_HEIGHT = 14
_RADIUS = 5
_LETTER = 6.6
"""About the width of a letter, in pixels."""


@dataclass(frozen=True)
class _Label:
    """A row's name beside its point; ``x`` and ``y`` are where the text begins or ends."""

    row: RowReport
    x: float
    y: float
    anchor: str

    def meets(self, other: _Label) -> bool:
        """Whether the two would be written over each other."""
        ours, theirs = self._span(), other._span()
        apart = ours[1] < theirs[0] or theirs[1] < ours[0]
        return not apart and abs(self.y - other.y) < _LABEL_HEIGHT

    def covers(self, x: float, y: float) -> bool:
        """Whether it would be written over a point."""
        begin, end = self._span()
        return begin - _RADIUS < x < end + _RADIUS and (
            self.y - _LABEL_HEIGHT < y + _RADIUS and y - _RADIUS < self.y
        )

    def _span(self) -> tuple[float, float]:
        width = _LETTER * len(self.row.name)
        return (self.x, self.x + width) if self.anchor == "start" else (self.x - width, self.x)


def pareto_plot(report: Report) -> str:
    """SVG; it says so where nothing can be placed in it."""
    metric = None if report.quality_axis is None else Metric(report.quality_axis)
    placed = [
        (index, row)
        for index, row in enumerate(report.rows)
        if row.step is not None and metric is not None and metric in row.quality
    ]
    if metric is None or not placed:
        said = text(10, 24, "No row has both a time and a quality.")
        return chart(_WIDTH, 40, [said], "no figures", "pareto")
    rows = [row for _, row in placed]
    times = [row.step.p50 for row in rows if row.step is not None]
    values = [row.quality[metric] for row in rows]
    x = Scale.around([v for t in times for v in (t.low, t.high)], _LEFT, _WIDTH - _RIGHT)
    y = Scale.around([v for q in values for v in (q.low, q.high)], _HEIGHT - _BOTTOM, _TOP)
    sense = SENSES[metric]
    unit = f" ({sense.unit})" if sense.unit else ""
    better = "more" if sense.more_is_better else "less"
    title = f"{sense.title}{unit}, {better} is better"
    parts = axes(x, y, "ms per step, median", title)
    parts += _front([row for row in rows if row.name in report.pareto], metric, x, y)
    for (index, _), time, value in zip(placed, times, values, strict=True):
        at, up, stroke = x(time.value), y(value.value), colour(index)
        parts.append(line(x(time.low), up, x(time.high), up, stroke, 'stroke-width="1.5"'))
        parts.append(line(at, y(value.low), at, y(value.high), stroke, 'stroke-width="1.5"'))
        parts.append(
            f'<circle class="point" data-row="{index}" cx="{at:.1f}" cy="{up:.1f}" r="{_RADIUS}" '
            f'fill="{stroke}"/>'
        )
    for label in _labels(rows, metric, x, y):
        parts.append(text(label.x, label.y, label.row.name, label.anchor, "ink"))
    return chart(_WIDTH, _HEIGHT, parts, f"ms per step against {sense.title}", "pareto")


def _front(rows: Sequence[RowReport], metric: Metric, x: Scale, y: Scale) -> list[str]:
    """A line through the rows that none beats."""
    points = sorted(
        (x(row.step.p50.value), y(row.quality[metric].value))
        for row in rows
        if row.step is not None
    )
    if len(points) < 2:
        return []
    path = " ".join(f"{at:.1f},{up:.1f}" for at, up in points)
    return [f'<polyline points="{path}" fill="none" stroke="var(--soft)" stroke-dasharray="4 4"/>']


def _labels(rows: Sequence[RowReport], metric: Metric, x: Scale, y: Scale) -> list[_Label]:
    """Above right of the points, or above left near the edge; moved up where they would meet."""
    placed: list[_Label] = []
    points = [
        (x(row.step.p50.value), y(row.quality[metric].value))
        for row in rows
        if row.step is not None
    ]
    for row in sorted(rows, key=lambda row: -y(row.quality[metric].value)):
        assert row.step is not None
        at, up = x(row.step.p50.value), y(row.quality[metric].value) - 8
        fits = at + 8 + _LETTER * len(row.name) < x.end
        label = _Label(row, at + 8 if fits else at - 8, up, "start" if fits else "end")
        while (
            any(label.meets(other) for other in placed)
            or any(label.covers(*point) for point in points)
        ) and label.y > y.end:
            label = _Label(row, label.x, label.y - 2, label.anchor)
        placed.append(label)
    return placed
