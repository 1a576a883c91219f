"""``cpu.json`` and ``cpu.md``: one row per model, batch and backend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import report_files
from ..report_files import machine_line
from ..timing.rounds import Cell
from ..timing.statistics import Spread, ratio, spread_of
from .backends import BACKENDS, OURS
from .sittings import WARM_UP_STEPS, Sitting


@dataclass(frozen=True)
class Row:
    """One backend.

    Attributes:
        runs_as: how, in a few words.
        step: milliseconds per step; None where it failed.
        speedups: this backend's time in units of each of ours, from the same rounds.
        failure: why there is no result.
    """

    model: str
    batch: int
    backend: str
    runs_as: str
    file_bytes: int
    load_seconds: float
    peak_bytes: int
    step: Spread | None
    speedups: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What a newer row replaces."""
        return self.model, self.batch, self.backend


def rows_of(sitting: Sitting, cells: Sequence[Cell]) -> list[Row]:
    """The rows of one sitting."""
    ours = {cell.backend: cell.ms for cell in cells if cell.ms and BACKENDS[cell.backend].is_ours}
    return [
        Row(
            sitting.model.name,
            sitting.batch,
            cell.backend,
            cell.runs_as,
            cell.file_bytes,
            cell.load_seconds,
            cell.peak_bytes,
            spread_of(cell.ms) if cell.ms else None,
            {name: ratio(cell.ms, times) for name, times in ours.items()} if cell.ms else {},
            cell.failure,
        )
        for cell in cells
    ]


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All rows, newer ones in the place of older ones; in the order of models and backends."""
    rows = {row.key: row for row in (*old, *new)}
    order = list(BACKENDS)
    return sorted(rows.values(), key=lambda row: (row.model, row.batch, order.index(row.backend)))


def read_rows(out: Path, setting: Mapping[str, Any]) -> list[Row]:
    """The rows of an earlier ``cpu.json``; none if they are of another setting."""
    path = out / "cpu.json"
    if not path.is_file():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    if {key: data.get(key) for key in setting} != setting:
        return []
    return [
        Row(**{**row, "step": None if row["step"] is None else Spread(**row["step"])})
        for row in data["rows"]
    ]


def write_report(out: Path, rows: Sequence[Row], setting: Mapping[str, Any]) -> None:
    """Write both files."""
    figures = {**setting, "rows": [asdict(row) for row in rows]}
    report_files.write_report(out, "cpu", figures, markdown(rows, setting))


def markdown(rows: Sequence[Row], setting: Mapping[str, Any]) -> str:
    """The table."""
    ours = " | ".join(f"{backend.title} is faster by" for backend in OURS)
    lines = [
        "# One denoising step on the CPU",
        "",
        f"Command: `make bench-cpu`; {setting['threads']} threads, {setting['rounds']} rounds.",
        machine_line(setting["machine"]),
        "",
        "| model | batch | backend | ms per step (p10 to p90) | "
        f"{ours} | file MB | peak RSS MB | load s |",
        "|---|---|---|---|" + "---|" * len(OURS) + "---|---|---|",
        *(_line(row) for row in rows),
        "",
        *_remarks(rows),
        "Every backend is a process of its own, pinned to the same processors; they run a step in",
        f"turns, each after one that is not timed, and {WARM_UP_STEPS} steps before all of them.",
        "Times are medians; ratios are medians of the ratios within a round. Peak RSS is the whole",
        "process, interpreter and libraries included; loading begins when these are imported.",
        "Weights are random but for `digits`: time does not depend on them.",
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    head = f"| {row.model} | {row.batch} | {BACKENDS[row.backend].title} |"
    if row.step is None:
        return f"{head} not run |" + " |" * (len(OURS) + 3)
    ratios = (row.speedups.get(backend.name) for backend in OURS)
    factors = " | ".join("" if value is None else f"{value:.2f}x" for value in ratios)
    return (
        f"{head} {row.step.median:.2f} ({row.step.p10:.2f} to {row.step.p90:.2f}) | {factors} "
        f"| {row.file_bytes / 1e6:.1f} | {row.peak_bytes / 1e6:.0f} | {row.load_seconds:.2f} |"
    )


def _remarks(rows: Sequence[Row]) -> list[str]:
    """How backends ran, and why some did not."""
    said: dict[str, list[str]] = {}
    for row in rows:
        remark = row.runs_as if row.failure is None else f"did not run: {row.failure}"
        if remark:
            place = f"{row.model} batch {row.batch}"
            said.setdefault(f"{BACKENDS[row.backend].title}, {{}}: {remark}.", []).append(place)
    lines = [f"- {text.replace('{}', ', '.join(places), 1)}" for text, places in said.items()]
    return [*lines, ""] if lines else []
