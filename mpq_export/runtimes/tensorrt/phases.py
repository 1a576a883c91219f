"""How far a build is, from TensorRT's phases within phases.

A phase has a number of steps, some of which are phases of their own. A step that is a phase counts
by the share of it that is done. What has been reached is never taken back: phases may turn out to
have more inside than was known.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """Phases that run now; TensorRT may tell of them from several threads."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._reached = 0.0

    @property
    def done(self) -> float:
        """Share of the outermost phase, 0 to 1."""
        with self._lock:
            self._reached = max(self._reached, self._share())
            return self._reached

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within another one."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))

    def complete(self, name: str, step: int) -> None:
        """Step number ``step``, from 0, is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = max(self._phases[name].done, step + 1)

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._reached = 1.0

    def _share(self) -> float:
        outer = next((name for name, one in self._phases.items() if one.parent is None), None)
        return 0.0 if outer is None else self._share_of(outer, frozenset())

    def _share_of(self, name: str, above: frozenset[str]) -> float:
        phase = self._phases[name]
        above |= {name}
        inner = max(
            (
                self._share_of(other, above)
                for other, one in self._phases.items()
                if one.parent == name and other not in above
            ),
            default=0.0,
        )
        return min(1.0, (phase.done + min(inner, 0.99)) / phase.steps)
