"""The profiles of all rows, rated against the same peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import write_json
from ...progress import ProgressReporter
from ..profiling.peak import measured_peaks
from ..timing.making import CannotBeMade
from ..timing.other_work import OtherWork, is_busy
from .costs import best_rates, rated
from .profile import GPU, Profile
from .profiling import PROFILE, can_be_profiled, profile_apart
from .rows import Row
from .store import Store, read_part, row_parts

_OTHERS, _SHARE, _PEAKS = "others.json", "share", "peaks"


@dataclass(frozen=True)
class Profiled:
    """Profiles by the names of rows, and why others have none.

    ``no_peaks`` says why no layer has a share of a peak; empty where they have.
    """

    profiles: Mapping[str, Profile]
    missing: Mapping[str, str]
    no_peaks: str


@dataclass(frozen=True)
class Profiler:
    """How rows are profiled.

    Attributes:
        store: of what is finished.
        parts: what the times depend on beside the row: the program, the machine's settings.
        bundle: says what the layers of baselines are.
        batch: images per step.
        processors: as many threads.
    """

    store: Store
    parts: Mapping[str, Any]
    bundle: Path
    batch: int
    processors: tuple[int, ...]

    def profile(self, rows: Sequence[Row], progress: ProgressReporter) -> Profiled:
        """Profile those that can be, and measure the peaks that all are held against."""
        progress.start("profile", len(rows))
        found: dict[str, Profile] = {}
        missing: dict[str, str] = {}
        shares = []
        for row in rows:
            if not can_be_profiled(row):
                missing[row.name] = f"layers are not timed in {row.runtime}"
            else:
                try:
                    found[row.name], share = self._profiled(row)
                    shares.append(share)
                except CannotBeMade as error:
                    missing[row.name] = str(error)
            progress.advance()
        peaks, no_peaks = self._peaks(found, shares)
        kinds = {row.name: row.kind for row in rows}
        return Profiled(
            {name: rated(profile, kinds[name], peaks) for name, profile in found.items()},
            missing,
            no_peaks,
        )

    def _profiled(self, row: Row) -> tuple[Profile, float]:
        """A profile without a peak, and what share of the machine others took meanwhile."""
        parts = {**self._parts(), **row_parts(row), "batch": self.batch}

        def make(folder: Path) -> None:
            others = OtherWork(self.processors)
            bundle = self.bundle if row.runtime is None else row.folder
            profile_apart(row, bundle, self.batch, self.processors, folder)
            write_json(folder / _OTHERS, {_SHARE: others.share()})

        folder = self.store.made(f"profile-{row.name}", parts, make)
        return Profile.model_validate(read_part(folder / PROFILE)), read_part(folder / _OTHERS)[
            _SHARE
        ]

    def _peaks(
        self, profiles: Mapping[str, Profile], shares: Sequence[float]
    ) -> tuple[dict[str, float], str]:
        """MAC/ns by type, at least what the best layer reached; or none, and why."""
        if all(profile.device == GPU for profile in profiles.values()):
            return {}, ""

        def measure() -> dict[str, Any]:
            others = OtherWork(self.processors)
            return {_PEAKS: measured_peaks(len(self.processors)), _SHARE: others.share()}

        kept = self.store.kept("peak", self._parts(), measure)
        share = max(kept[_SHARE], *shares)
        if is_busy(share):
            return {}, (
                f"other programs took up to {share:.0%} of the processors' time while layers were "
                "profiled; to do that again, remove profile-* and peak-* from the cache"
            )
        if not kept[_PEAKS]:
            return {}, "there is no native library to measure peaks with"
        best = best_rates(profiles.values())
        return {kind: max(peak, best.get(kind, 0.0)) for kind, peak in kept[_PEAKS].items()}, ""

    def _parts(self) -> dict[str, Any]:
        return {**self.parts, "processors": list(self.processors)}
