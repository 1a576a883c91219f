"""Subjects that are timed in turns, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..timing.failures import one_line
from ..timing.statistics import Spread, spread_of

_WARM_UP_ROUNDS = 2


@dataclass
class Timed:
    """A subject's milliseconds per unit of work, one for every round; or why there are none."""

    ms: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def spread(self) -> Spread | None:
        """Over the rounds."""
        return spread_of(self.ms) if self.ms else None


@dataclass(frozen=True)
class Subject:
    """Something that does its work so many times over when it is called."""

    name: str
    work: Callable[[], object]
    units: int = 1


def prepared(name: str, make: Callable[[], Subject]) -> Subject | Timed:
    """A subject, or its failure: libraries and compilers raise what they like."""
    try:
        return make()
    except Exception as error:
        return Timed(failure=f"{name}: {one_line(error)}")


def in_turns(
    subjects: Sequence[Subject], rounds: int, ms: Callable[[Callable[[], object]], float]
) -> dict[str, Timed]:
    """Times by name, ``ms`` being how they are taken: of a :class:`Stopwatch`.

    The order rotates; a subject that fails is left out from then on.
    """
    timed = {subject.name: Timed() for subject in subjects}
    for number in range(-_WARM_UP_ROUNDS, rounds):
        running = [subject for subject in subjects if timed[subject.name].failure is None]
        first = number % max(len(running), 1)
        for subject in running[first:] + running[:first]:
            try:
                taken = ms(subject.work) / subject.units
            except Exception as error:
                timed[subject.name] = Timed(failure=one_line(error))
                continue
            if number >= 0:
                timed[subject.name].ms.append(taken)
    return timed
