"""An attack: hostile input, and the door of the program it is carried to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """How the program met an attack. Anything but the first two is a failed test."""

    REFUSED = "refused"
    """A UserError that names what it is about."""
    CORRECT = "correct"
    """A correct result, checked by the attack itself."""
    CRASHED = "crashed"
    """Another exception, a dead process, the memory or time limit, code that ran."""


REFUSED = frozenset({Outcome.REFUSED})
CORRECT = frozenset({Outcome.CORRECT})
EITHER = REFUSED | CORRECT


@dataclass(frozen=True)
class Material:
    """Whole and harmless things that attacks spoil copies of; never changed themselves.

    Attributes:
        handmade: a bundle that uses every part of the format and is no model.
        pipeline: a diffusers pipeline folder with a tiny model.
        lowered: the tiny model's bundle, lowered to every target.
        cached: another of its bundles, with cached temporal features, likewise.
    """

    handmade: Path
    pipeline: Path
    lowered: Path
    cached: Path


@dataclass(frozen=True)
class Place:
    """Where one attack happens: an empty folder, and a file that must never appear."""

    material: Material
    folder: Path

    @property
    def canary(self) -> Path:
        """Created by hostile code, if it ever runs."""
        return self.folder / "canary"


@dataclass(frozen=True)
class Attack:
    """One entry of the catalogue.

    Attributes:
        area: what is attacked.
        name: what is hostile about it, in words.
        make: prepares the hostile input in a place, and returns its path.
        enter: the program's own entry point, given that path; if it returns, what it did must be
            correct, and ``enter`` has asserted so.
        allowed: the outcomes that are right.
        names: what a refusal must mention.
    """

    area: str
    name: str
    make: Callable[[Place], Path]
    enter: Callable[[Path], object]
    allowed: frozenset[Outcome] = REFUSED
    names: str = ""


@dataclass(frozen=True)
class Result:
    """What came of an attack; ``message`` is the refusal, or what went wrong."""

    attack: Attack
    outcome: Outcome
    message: str

    @property
    def passed(self) -> bool:
        """Whether this outcome was allowed."""
        return self.outcome in self.attack.allowed
