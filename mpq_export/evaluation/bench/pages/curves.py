"""Errors of predictions along the sampler's steps."""

from __future__ import annotations

from ..report import Report
from .svg import Scale, axes, chart, colour

_WIDTH, _HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 34, 46


def error_curves(report: Report) -> str | None:
    """SVG, or None where no row has errors. Sampling goes from left to right."""
    rows = [(index, row) for index, row in enumerate(report.rows) if row.errors]
    rows = [(index, row) for index, row in rows if any(step.relative > 0 for step in row.errors)]
    if not rows:
        return None
    largest = max(step.relative for _, row in rows for step in row.errors)
    shown = [max(s.relative, largest * 1e-4) for _, row in rows for s in row.errors]
    count = max(len(row.errors) for _, row in rows)
    x = Scale(1, max(count, 2), _LEFT, _WIDTH - _RIGHT, False)
    y = Scale.around(shown, _HEIGHT - _BOTTOM, _TOP)
    parts = axes(x, y, "sampler step, from noise to image", "relative error of the prediction")
    for index, row in rows:
        points = " ".join(
            f"{x(number):.1f},{y(max(step.relative, largest * 1e-4)):.1f}"
            for number, step in enumerate(row.errors, 1)
        )
        parts.append(
            f'<polyline class="curve" points="{points}" fill="none" stroke="{colour(index)}" '
            'stroke-width="2"/>'
        )
    return chart(_WIDTH, _HEIGHT, parts, "relative error by sampler step", "errors")
