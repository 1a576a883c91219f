"""The picture of a run: time against quality, with the intervals of both."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics import SENSES, Metric
from ..report import Report, RowReport
from .labels import Frame, Label, placed_labels, text_width
from .marks import MOST_NAMED, Mark, Marks
from .svg import Scale, axes, chart, line, text

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 34, 46
_RADIUS = 5
_LEGEND_LINE, _LEGEND_GAP = 18, 16


def pareto_plot(report: Report, marks: Marks) -> str:
    """SVG; it says so where nothing can be placed in it.

    Of few rows all have their names beside their points, of many those that no other one beats;
    a legend under the plot says what the others are, and what a name has no room for.
    """
    metric = None if report.quality_axis is None else Metric(report.quality_axis)
    rows = [row for row in report.rows if row.step is not None and metric in row.quality]
    if metric is None or not rows:
        said = text(10, 24, "No row has both a time and a quality.")
        return chart(_WIDTH, 40, [said], "no figures", "pareto")
    times = [row.step.p50 for row in rows if row.step is not None]
    values = [row.quality[metric] for row in rows]
    x = Scale.around([v for t in times for v in (t.low, t.high)], _LEFT, _WIDTH - _RIGHT)
    y = Scale.around([v for q in values for v in (q.low, q.high)], _HEIGHT - _BOTTOM, _TOP)
    sense = SENSES[metric]
    unit = f" ({sense.unit})" if sense.unit else ""
    better = "more" if sense.more_is_better else "less"
    title = f"{sense.title}{unit}, {better} is better"
    parts = axes(x, y, "ms per step, median", title)
    for row, time, value in zip(rows, times, values, strict=True):
        at, up, mark = x(time.value), y(value.value), marks.by_row[row.name]
        bar = 'stroke-width="1.5"' if len(rows) <= MOST_NAMED else 'opacity="0.5"'
        parts.append(line(x(time.low), up, x(time.high), up, mark.colour, bar))
        parts.append(line(at, y(value.low), at, y(value.high), mark.colour, bar))
    points = [(x(t.value), y(v.value)) for t, v in zip(times, values, strict=True)]
    parts += _front([point for row, point in zip(rows, points, strict=True) if _best(row, report)])
    numbers = {row.name: index for index, row in enumerate(report.rows)}
    for row, (at, up) in zip(rows, points, strict=True):
        which = f'class="point" data-row="{numbers[row.name]}" stroke="var(--page)"'
        parts.append(marks.by_row[row.name].drawn(at, up, _RADIUS, which))
    names, without_room = _names(rows, points, report)
    parts += names
    known = {said for _, said in marks.legend}
    more = [(marks.by_row[name], name) for name in without_room if name not in known]
    drawn, height = _legend([*marks.legend, *more])
    label = f"ms per step against {sense.title}"
    return chart(_WIDTH, _HEIGHT + height, [*parts, *drawn], label, "pareto")


def _best(row: RowReport, report: Report) -> bool:
    return row.name in report.pareto


def _names(
    rows: Sequence[RowReport], points: Sequence[tuple[float, float]], report: Report
) -> tuple[list[str], list[str]]:
    """Names beside points, with lines to those that are farther away; and those for which there is
    no room."""
    many = len(report.rows) > MOST_NAMED
    named = [
        (row.name, *point)
        for row, point in zip(rows, points, strict=True)
        if not many or _best(row, report)
    ]
    named.sort(key=lambda one: -one[2])
    frame = Frame(_LEFT, _WIDTH, _TOP - 10, _HEIGHT - _BOTTOM)
    labels = placed_labels(named, points, frame, _RADIUS)
    ties = [_tie(label, *named[index][1:]) for index, label in labels.items() if label.tied]
    drawn = [text(one.x, one.y, one.name, one.anchor, "ink") for one in labels.values()]
    left_out = {name for index, (name, *_) in enumerate(named) if index not in labels}
    return ties + drawn, [row.name for row in rows if row.name in left_out]


def _tie(label: Label, x: float, y: float) -> str:
    return line(x, y, label.x, label.y - 4, "var(--soft)", 'stroke-width="0.7"')


def _legend(entries: Sequence[tuple[Mark, str]]) -> tuple[list[str], int]:
    """Marks with their meanings, line after line under the plot, and how much height that takes."""
    if not entries:
        return [], 0
    parts, at, lines = [], float(_LEFT), 1
    for mark, said in entries:
        width = 10 + text_width(said) + _LEGEND_GAP
        if at + width > _WIDTH and at > _LEFT:
            at, lines = float(_LEFT), lines + 1
        up = _HEIGHT + _LEGEND_LINE * (lines - 1) + 4
        parts.append(mark.drawn(at, up, _RADIUS))
        parts.append(text(at + 10, up + 4, said))
        at += width
    return parts, _LEGEND_LINE * lines


def _front(best: Sequence[tuple[float, float]]) -> list[str]:
    """A line through the points of rows that none beats."""
    if len(best) < 2:
        return []
    path = " ".join(f"{at:.1f},{up:.1f}" for at, up in sorted(best))
    return [f'<polyline points="{path}" fill="none" stroke="var(--soft)" stroke-dasharray="4 4"/>']
