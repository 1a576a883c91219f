"""Errors say what failed, where, why, and what to do."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from mpq_export import errors
from mpq_export.errors import UserError, missing_package

FAMILY = [
    value for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "It failed."),
        ({"where": "--bits"}, "It failed (--bits)."),
        ({"where": Path("a/b")}, "It failed (a/b)."),
        ({"why": "No disk"}, "It failed. No disk."),
        ({"fix": "Buy one"}, "It failed. Buy one."),
        ({"where": "x", "why": "Full.", "fix": "Why not?"}, "It failed (x). Full. Why not?"),
    ],
)
def test_the_paragraph_is_running_text(parts: dict[str, str], text: str) -> None:
    error = UserError("It failed", **parts)
    assert error.paragraph() == text
    assert str(error) == text


def test_the_parts_stay_apart() -> None:
    error = UserError("It failed", where=Path("a"), why="Because", fix="Mend it")
    assert (error.what, error.where, error.why, error.fix) == (
        "It failed",
        "a",
        "Because",
        "Mend it",
    )


@pytest.mark.parametrize("error", FAMILY)
def test_every_error_is_a_user_error(error: type[Exception]) -> None:
    assert issubclass(error, UserError)
    assert str(error("Broken", where="here")) == "Broken (here)."
    assert not issubclass(error, ValueError | OSError)


def test_the_family_is_whole() -> None:
    assert {error.__name__ for error in FAMILY} >= {
        "UserError", "BitsError", "CheckpointError", "BundleError", "RecipeError", "LayerError",
        "RuntimeUnavailable",
    }  # fmt: skip


def test_a_missing_package_names_the_extra() -> None:
    error = missing_package("onnxruntime", "cpu", "Running a bundle")
    assert isinstance(error, errors.RuntimeUnavailable)
    assert str(error) == (
        "Running a bundle needs the Python package 'onnxruntime', which is not installed. "
        "Install it with: pip install 'mpq-export[cpu]'."
    )
