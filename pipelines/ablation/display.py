"""What the command shows while it runs: cells done with the time left, a line for each at work."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ...cli import console


class GridDisplay:
    """Progress on stderr; a context manager."""

    def __init__(self, total: int, done: int, what: str = "cells") -> None:
        self._progress = Progress(
            TextColumn("{task.description:<48}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console.err,
        )
        self._cells = self._progress.add_task(what, total=total, completed=done, note="")
        self._lines: dict[Hashable, CellLine] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def cells_done(self, done: int, seconds_left: float | None) -> None:
        """So many cells are done, and about so many seconds are left, if that is known."""
        note = "" if seconds_left is None else f"ETA {duration(seconds_left)}"
        self._progress.update(self._cells, completed=done, note=note)

    def begin(self, job: Hashable, name: str) -> CellLine:
        """A new line for a job at work."""
        self._lines[job] = CellLine(self._progress, name)
        return self._lines[job]

    def end(self, job: Hashable) -> None:
        """Its line goes."""
        self._lines.pop(job).remove()


class CellLine:
    """One cell's progress."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._task: TaskID = progress.add_task(name, total=None, note="")

    def start(self, task: str, total: int) -> None:
        """A new task begins."""
        self._progress.reset(self._task, total=total, description=self._name, note=task)

    def advance(self, parts: int = 1) -> None:
        """More parts of it are done."""
        self._progress.advance(self._task, parts)

    def note(self, text: str) -> None:
        """How it is going."""
        self._progress.update(self._task, note=text)

    def remove(self) -> None:
        """The cell has ended."""
        self._progress.remove_task(self._task)


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
