"""Where long work says how far it is."""

from __future__ import annotations

from typing import Protocol


class ProgressReporter(Protocol):
    """A progress bar, a log, or nothing; commands pass the one they show."""

    def start(self, task: str, total: int) -> None:
        """A new task of ``total`` parts begins."""

    def advance(self, parts: int = 1) -> None:
        """That many more parts of the current task are done."""

    def note(self, text: str) -> None:
        """How the current task is going, in a few words, such as its loss."""


class Silence:
    """Reports nothing: for processes that assist another one."""

    def start(self, task: str, total: int) -> None:
        """Nothing."""

    def advance(self, parts: int = 1) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
