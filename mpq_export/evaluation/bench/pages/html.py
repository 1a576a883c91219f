"""``report.html``: one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import missing_package
from ....pipelines.images import grid
from ..metrics import SENSES
from ..report import Report
from .curves import error_curves
from .marks import MOST_NAMED, Mark, marks_of
from .pareto import pareto_plot
from .svg import DARK, LIGHT, variables
from .words import (
    ROUNDS,
    cost_sentences,
    megabytes,
    metrics_of,
    milliseconds,
    not_measured,
    peaks,
    percentiles,
    quality_cell,
    rate,
    runs_of,
    runs_on_gpu,
    step_times,
    told_by_none,
    verdicts,
)

_TEMPLATE = "report.html.j2"
_SAMPLES, _COLUMNS = 20, 10
_LAYERS = 15


def html_page(report: Report, images: Mapping[str, np.ndarray], data: str = "report.json") -> str:
    """The page; ``images`` by row, float32 ``[N, C, H, W]`` in [0, 1]; ``data`` is the file beside
    it that holds everything."""
    try:
        import jinja2
    except ImportError as error:
        raise missing_package("jinja2", "runtime", "The report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mb": megabytes,
        "ms": milliseconds,
        "tails": percentiles,
        "rate": rate,
        "peaks": peaks,
        "step_times": step_times,
    }
    template = environment.get_template(_TEMPLATE)
    return template.render(**_context(report, images), data=data)


def _context(report: Report, images: Mapping[str, np.ndarray]) -> dict[str, Any]:
    metrics, marks = metrics_of(report), marks_of(report.rows)
    return {
        "report": report,
        "light": variables(LIGHT),
        "dark": variables(DARK),
        "pareto": pareto_plot(report, marks),
        "curves": error_curves(report, marks),
        "colours": {name: mark.colour for name, mark in marks.by_row.items()},
        "chips": {name: _chip(mark) for name, mark in marks.by_row.items()},
        "strokes": {name: _stroke(mark) for name, mark in marks.by_row.items()},
        "runs": runs_of(report),
        "on_gpu": runs_on_gpu(report),
        "many": len(report.rows) > MOST_NAMED,
        "metrics": [(metric, SENSES[metric]) for metric in metrics],
        "quality": {
            row.name: [quality_cell(row, metric) for metric in metrics] for row in report.rows
        },
        "verdicts": verdicts(report),
        "told_by_none": told_by_none(report),
        "costs": {row.name: cost_sentences(row) for row in report.rows},
        "samples": {name: _data_uri(own) for name, own in images.items()},
        "shown_layers": _LAYERS,
        "missing": not_measured(report),
        "rounds": ROUNDS,
    }


def _chip(mark: Mark) -> str:
    """A row's mark before its name."""
    return f'<svg class="chip" viewBox="0 0 14 14" aria-hidden="true">{mark.drawn(7, 7, 5)}</svg>'


def _stroke(mark: Mark) -> str:
    """A piece of a row's curve."""
    return (
        '<svg class="stroke" viewBox="0 0 28 8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="28" y2="4" stroke="{mark.colour}" stroke-width="2.5" '
        f'stroke-dasharray="{mark.dashes or "none"}"/></svg>'
    )


def _data_uri(images: np.ndarray) -> str:
    stream = io.BytesIO()
    grid(images[:_SAMPLES], min(_COLUMNS, len(images))).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
