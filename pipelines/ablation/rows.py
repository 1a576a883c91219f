"""Cells that differ in their seed alone, as one row of a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .grid import Cell

FRECHET, ERROR = "frechet_full_precision", "relative_error"
PSNR = "psnr_full_precision"
UNPAIRED_SHARE = "share_of_unpaired"
WITHIN_NOISE = 2.0
"""So many standard deviations are still noise."""


@dataclass(frozen=True)
class Entry:
    """A cell and what is known of it.

    Attributes:
        cell: itself.
        key: of its record; None where the family's model is not there.
        figures: what was measured, or None.
        reference: figures of full precision, or None.
        missing: why there are no figures.
    """

    cell: Cell
    key: str | None
    figures: Mapping[str, Any] | None
    reference: Mapping[str, Any] | None
    missing: str = ""

    def value(self, name: str) -> float | None:
        """A figure, or what follows from several."""
        if self.figures is None:
            return None
        if name == UNPAIRED_SHARE and self.reference and FRECHET in self.figures:
            return float(self.figures[FRECHET] / self.reference["frechet_unpaired"])
        value = self.figures.get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Row:
    """Entries of the same family, label, bits and trained weights, one for each seed."""

    family: str
    label: str
    bits: str
    weights: str
    entries: Sequence[Entry]

    @property
    def done(self) -> list[Entry]:
        """Those that were measured."""
        return [entry for entry in self.entries if entry.figures is not None]

    @property
    def first(self) -> Mapping[str, Any] | None:
        """Figures of the first seed that was measured."""
        return self.done[0].figures if self.done else None

    def values(self, name: str) -> list[float]:
        """A figure of every seed that has it."""
        values = [entry.value(name) for entry in self.done]
        return [value for value in values if value is not None]

    def mean(self, name: str) -> float | None:
        """Over seeds; None where nothing was measured."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """In the order in which the entries come."""
    groups: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in entries:
        cell = entry.cell
        same = (cell.family, cell.label, cell.bits, cell.weights)
        groups.setdefault(same, []).append(entry)
    return [Row(*same, group) for same, group in groups.items()]
