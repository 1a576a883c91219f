"""Writing all pages of a run."""

from __future__ import annotations

import json
from pathlib import Path

from ....files import staged_file
from ..run import Finished
from .html import html_page
from .markdown import markdown_page
from .marks import marks_of
from .pareto import pareto_plot
from .svg import standalone


def page_files(name: str) -> tuple[str, ...]:
    """The files of a report of this name."""
    return tuple(f"{name}.{suffix}" for suffix in ("json", "md", "html", "svg"))


def write_pages(finished: Finished, out: Path, name: str) -> None:
    """Write ``NAME.json``, ``.md``, ``.html`` and ``.svg``, each atomically."""
    report = finished.report
    with staged_file(out / f"{name}.json") as stage:
        data = report.model_dump()
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        stage.write_text(text + "\n", encoding="utf-8")
    texts = {
        "md": markdown_page(report, f"{name}.svg"),
        "html": html_page(report, finished.images, f"{name}.json"),
        "svg": standalone(pareto_plot(report, marks_of(report.rows))),
    }
    for suffix, text in texts.items():
        with staged_file(out / f"{name}.{suffix}") as stage:
            stage.write_text(text, encoding="utf-8")
