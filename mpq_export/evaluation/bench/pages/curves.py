"""Errors of predictions along the sampler's steps."""

from __future__ import annotations

from ..report import Report
from .marks import Marks
from .svg import Scale, axes, chart

_WIDTH, _HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 34, 46


def error_curves(report: Report, marks: Marks) -> str | None:
    """SVG, or None where no row has errors. Sampling goes from left to right."""
    rows = [row for row in report.rows if any(step.relative > 0 for step in row.errors)]
    if not rows:
        return None
    largest = max(step.relative for row in rows for step in row.errors)
    shown = [max(s.relative, largest * 1e-4) for row in rows for s in row.errors]
    count = max(len(row.errors) for row in rows)
    x = Scale(1, max(count, 2), _LEFT, _WIDTH - _RIGHT, False)
    y = Scale.around(shown, _HEIGHT - _BOTTOM, _TOP)
    parts = axes(x, y, "sampler step, from noise to image", "relative error of the prediction")
    for row in rows:
        points = " ".join(
            f"{x(number):.1f},{y(max(step.relative, largest * 1e-4)):.1f}"
            for number, step in enumerate(row.errors, 1)
        )
        mark = marks.by_row[row.name]
        parts.append(
            f'<polyline class="curve" points="{points}" fill="none" stroke="{mark.colour}" '
            f'stroke-width="2" stroke-dasharray="{mark.dashes or "none"}"/>'
        )
    return chart(_WIDTH, _HEIGHT, parts, "relative error by sampler step", "errors")
