"""The one family of errors that a user can cause: what, where, why, how to fix."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A problem that the user can mend. Commands print it as one paragraph and exit with 2.

    Args:
        what: what failed, as a sentence without its full stop.
        where: the file, option, layer or node it concerns.
        why: the cause, with the numbers.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | Path = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, str(where), why, fix
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        """All four parts as running text."""
        head = f"{self.what} ({self.where})" if self.where else self.what
        parts = [head, self.why, self.fix]
        text = " ".join(part if part.endswith((".", "?")) else f"{part}." for part in parts if part)
        return printable(text)


def printable(text: str) -> str:
    """The text with everything that a terminal would act on, or cannot show, written as an escape.

    Names in files and paths are not ours: they may hold control codes and broken Unicode.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class BitsError(UserError):
    """A bit specification that is not one."""


class CheckpointError(UserError):
    """A full-precision checkpoint that cannot be read, or must not be."""


class BundleError(UserError):
    """A bundle that is damaged, tampered with, or of another format version."""


class RecipeError(UserError):
    """A method or recipe that does not exist or does not fit."""


class LayerError(UserError):
    """A layer that the contract cannot hold."""


class RuntimeUnavailable(UserError):
    """A runtime, or the package it needs, that is not on this machine."""


class Interrupted(UserError):
    """Long work that was asked to stop, and can be gone on with. No mistake: exit code 130."""


def missing_package(package: str, extra: str, needed_for: str) -> RuntimeUnavailable:
    """The error for an optional package that is not installed."""
    return RuntimeUnavailable(
        f"{needed_for} needs the Python package '{package}', which is not installed",
        fix=f"Install it with: pip install 'mpq-export[{extra}]'",
    )
