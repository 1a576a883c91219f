"""Cells that the reports hold already: their keys name all that decided their figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import parse_json
from .schedule import Planned
from .store import Store


def published_cells(results: Path) -> dict[str, Mapping[str, Any]]:
    """What the reports in a folder say of cells that were measured, by the keys of their results.

    Raises UserError where a report is no JSON of its kind.
    """
    cells = {}
    for path in sorted(results.glob("ablation_*.json")):
        try:
            entries = parse_json(path.read_bytes(), path, UserError)["cells"]
            cells.update({cell["key"]: cell for cell in entries if cell["figures"] is not None})
        except (KeyError, TypeError) as problem:
            raise UserError(
                "The report is not one of the grid's",
                where=path,
                why=f"It has no {problem}",
                fix="Delete it, or name another folder with --results",
            ) from problem
    return cells


def adopt(results: Path, planned: Iterable[Planned], store: Store) -> int:
    """Take over into the store what it lacks, figures without images; returns how many cells."""
    published, taken = published_cells(results), 0
    for entry in planned:
        cell = entry.keys and published.get(entry.keys.result)
        if entry.keys is None or not cell or entry.is_done(store):
            continue
        if cell["full_precision"] is not None and store.figures(entry.keys.reference) is None:
            store.write_figures(entry.keys.reference, cell["full_precision"])
        store.write_figures(entry.keys.result, cell["figures"])
        taken += 1
    return taken
