"""Writing all pages of a run."""

from __future__ import annotations

from pathlib import Path

from ....files import staged_file, write_json
from ..run import Finished
from .html import html_page
from .markdown import markdown_page
from .pareto import pareto_plot
from .svg import standalone

JSON, MARKDOWN, HTML, PARETO = "report.json", "report.md", "report.html", "pareto.svg"


def write_pages(finished: Finished, out: Path) -> None:
    """Write every page, each atomically."""
    report = finished.report
    with staged_file(out / JSON) as stage:
        write_json(stage, report.model_dump())
    texts = {
        MARKDOWN: markdown_page(report),
        HTML: html_page(report, finished.images),
        PARETO: standalone(pareto_plot(report)),
    }
    for name, text in texts.items():
        with staged_file(out / name) as stage:
            stage.write_text(text, encoding="utf-8")
