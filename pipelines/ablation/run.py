"""``make ablation``: the grid, cell by cell, from where it was left.

python -m mpq_export.pipelines.ablation.run --part digits

Every cell that has ended is kept under ``--out``, and the reports under ``--results`` are written
again after each; where the command is stopped, the same command goes on. So does it on another
machine, from the reports: cells that they hold are not measured again.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ...cli import console
from ...errors import Interrupted, UserError
from ...progress import ProgressReporter
from .display import CellLine, GridDisplay
from .grid import Cell, Overrides, Part, grid
from .published import adopt, published_cells
from .report import PartReport, cell_name
from .rows import FRECHET
from .schedule import Planned, jobs_of, plan_of, seconds_left
from .store import Store
from .workers import Ending, run_all

_WORKERS, _GPU_WORKERS = 2, 1
EPILOG = console.examples(
    "python -m mpq_export.pipelines.ablation.run --plan",
    "python -m mpq_export.pipelines.ablation.run --part digits --part forms",
)


@dataclass(frozen=True)
class CellJob:
    """Cells of one bundle, for a process of its own."""

    cells: tuple[Cell, ...]
    store: Store

    def run(self, progress: ProgressReporter) -> None:
        """One after the other."""
        from .cell import run_cell

        for cell in self.cells:
            run_cell(cell, self.store, progress)


@dataclass
class GridRun:
    """The command at work.

    Attributes:
        parts: what was asked for.
        command: as it is typed.
        store, results: where records and reports go.
        workers: cells at a time.
        failures: why a cell has no record, by the record's key.
    """

    parts: Sequence[Part]
    command: str
    store: Store
    results: Path
    workers: int
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_part = {part.name: plan_of(part.cells) for part in self.parts}
        self.planned = plan_of([cell for part in self.parts for cell in part.cells])
        self._keys = {name: {e.keys for e in plan if e.keys} for name, plan in by_part.items()}

    @property
    def done(self) -> int:
        """Cells that have a record."""
        return sum(entry.is_done(self.store) for entry in self.planned)

    @property
    def jobs(self) -> list[CellJob]:
        """What is left to do."""
        return [CellJob(cells, self.store) for cells in jobs_of(self.planned, self.store)]

    def run(self) -> None:
        """Do it; raises Interrupted on Ctrl-C."""
        self.report(self.parts)
        with GridDisplay(len(self.planned), self.done) as display:

            def line_of(job: CellJob) -> CellLine:
                return display.begin(job, cell_name(job.cells[0]))

            try:
                with closing(run_all(CellJob.run, self.jobs, self.workers, line_of)) as endings:
                    for job, ending in endings:
                        display.end(job)
                        self._ended(job, ending)
                        left = seconds_left(self.planned, self.store, self.workers)
                        display.cells_done(self.done, left)
            except KeyboardInterrupt:
                self.report(self.parts)
                raise Interrupted(
                    f"Stopped with {self.done} of {len(self.planned)} cells done",
                    where=self.store.folder,
                    fix="The same command goes on",
                ) from None

    def report(self, parts: Sequence[Part]) -> None:
        """Write the reports of some parts anew."""
        for part in parts:
            PartReport.of(part, self.command, self.store, self.failures).write(
                self.results, self.store
            )

    def _ended(self, job: CellJob, ending: Ending) -> None:
        """Say what became of a job's cells, and report the parts that show them."""
        ended = {e.keys: e for e in self.planned if e.cell in job.cells and e.keys is not None}
        for keys, entry in ended.items():
            if not entry.is_done(self.store):
                self.failures[keys.result] = ending.why or f"{ending.outcome.value}."
            self._say(entry, ending)
        self.report([part for part in self.parts if self._keys[part.name] & set(ended)])

    def _say(self, entry: Planned, ending: Ending) -> None:
        figures = entry.keys and self.store.figures(entry.keys.result)
        name = cell_name(entry.cell)
        if not figures:
            console.say(f"{name}: {ending.outcome.value}. {ending.why}")
            return
        distance = f", FD to fp32 {figures[FRECHET]:.3f}" if FRECHET in figures else ""
        error = (
            f", noise error {figures['relative_error']:.3f}" if "relative_error" in figures else ""
        )
        seconds = figures["making_seconds"] + figures["measuring_seconds"]
        console.say(f"{name}: done{distance}{error}, {seconds:.0f} s.")


def main(
    part: Annotated[list[str] | None, typer.Option(help="Only these parts; default all.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Cells at a time; default 2, with a GPU 1."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of bundles and records; what is there is not done again.")
    ] = Path("out/ablation"),
    results: Annotated[Path, typer.Option(help="Folder of the reports.")] = Path("docs/results"),
    updates: Annotated[
        int | None, typer.Option(min=1, help="For trials: another number of updates.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=100, help="For trials: another number of images.")
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Measure again what the reports hold already.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="List the cells, done or not; run nothing.")
    ] = False,
) -> None:
    """Train and measure every method on the models that ship here; resumes where it was left."""
    overrides = Overrides(updates, images)
    parts = chosen_parts(part or [], overrides)
    named = "".join(f" --part {name}" for name in part or [])
    command = f"python -m mpq_export.pipelines.ablation.run{named}{overrides.options()}"
    store = Store(out)
    if plan:
        _print_plan(parts, store, [] if anew else published_cells(results))
        return
    run = GridRun(parts, command, store, results, prepared(workers))
    if not anew and (taken := adopt(results, run.planned, store)):
        console.say(f"{taken} cells are taken from {results}; --anew measures them again.")
    run.run()
    console.say(f"{run.done} of {len(run.planned)} cells are done; reports are in {results}.")
    if run.failures:
        raise typer.Exit(console.CHECK_FAILED)


def chosen_parts(names: Sequence[str], overrides: Overrides) -> list[Part]:
    """Those parts, or all where none is named; raises UserError for one that there is not."""
    parts = grid(overrides)
    for name in names:
        if name not in parts:
            raise UserError(
                f"There is no part '{name}'", where="--part", why=f"Parts: {', '.join(parts)}"
            )
    return [entry for name, entry in parts.items() if not names or name in names]


def prepared(workers: int | None) -> int:
    """How many cells run at a time; their processes inherit how many threads each may have.

    Without a GPU that is one: threads that wait for each other beside another busy process made a
    training ten times slower.
    """
    import torch

    gpu = torch.cuda.is_available()
    chosen = workers or (_GPU_WORKERS if gpu else _WORKERS)
    threads = max(1, (os.cpu_count() or 1) // chosen) if gpu else 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    return chosen


def _print_plan(parts: Sequence[Part], store: Store, published: Container[str]) -> None:
    for part in parts:
        console.say(f"{part.name}: {part.title}")
        for cell in part.cells:
            planned = Planned.of(cell)
            state = "done" if planned.is_done(store) else planned.why or "to do"
            if state == "to do" and planned.keys and planned.keys.result in published:
                state = "published"
            console.say(f"  {cell_name(cell)}: {state}")


if __name__ == "__main__":
    console.run(main, EPILOG)
