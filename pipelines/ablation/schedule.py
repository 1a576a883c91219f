"""What is left of the grid, as jobs that share nothing, and how long that takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import UserError
from .grid import Cell
from .keys import Keys, keys_of
from .store import Store


@dataclass(frozen=True)
class Planned:
    """A cell with its keys, or why it cannot be done here."""

    cell: Cell
    keys: Keys | None
    why: str = ""

    @classmethod
    def of(cls, cell: Cell) -> Planned:
        """A family's checkpoint may not be there."""
        try:
            return cls(cell, keys_of(cell))
        except UserError as error:
            return cls(cell, None, error.paragraph())

    def is_done(self, store: Store) -> bool:
        """Whether its record is there."""
        return self.keys is not None and store.figures(self.keys.result) is not None


def plan_of(cells: Iterable[Cell]) -> list[Planned]:
    """Every cell once, though several parts may show it."""
    once: dict[str | Cell, Planned] = {}
    for entry in map(Planned.of, cells):
        once.setdefault(entry.keys.result if entry.keys else entry.cell, entry)
    return list(once.values())


def jobs_of(planned: Iterable[Planned], store: Store) -> list[tuple[Cell, ...]]:
    """What is left to do: the cells of one bundle are one job, and follow each other in it."""
    jobs: dict[str, list[Cell]] = {}
    for entry in planned:
        if entry.keys is not None and not entry.is_done(store):
            jobs.setdefault(entry.keys.bundle, []).append(entry.cell)
    return [tuple(cells) for cells in jobs.values()]


def seconds_left(planned: Sequence[Planned], store: Store, workers: int) -> float | None:
    """From the mean of the cells done that are most alike; None before the first one."""
    done: dict[tuple[str, ...], list[float]] = {}
    left = []
    for entry in planned:
        figures = entry.keys and store.figures(entry.keys.result)
        if figures:
            for kind in _kinds(entry.cell):
                done.setdefault(kind, []).append(
                    figures["making_seconds"] + figures["measuring_seconds"]
                )
        elif entry.keys is not None:
            left.append(entry.cell)
    if not done:
        return None
    return sum(_expected(cell, done) for cell in left) / workers


def _kinds(cell: Cell) -> list[tuple[str, ...]]:
    """From the narrowest to all."""
    trained = (cell.family, cell.weights, cell.measure.value)
    return [(*trained, cell.recipe.method), trained, trained[:2], trained[:1], ()]


def _expected(cell: Cell, done: Mapping[tuple[str, ...], Sequence[float]]) -> float:
    return next(statistics.fmean(done[kind]) for kind in _kinds(cell) if kind in done)
