"""Where long work says how far it is."""

from __future__ import annotations

from typing import Protocol


class ProgressReporter(Protocol):
    """A progress bar, a log, or nothing; commands pass the one they show."""

    def start(self, task: str, total: int) -> None:
        """A new task of ``total`` parts begins."""

    def advance(self, parts: int = 1) -> None:
        """That many more parts of the current task are done."""
