"""The bundles of one part of the grid under names that say what they are, for other commands.

python -m mpq_export.pipelines.ablation.bundles --part methods --to out/methods

Those that the grid has made are taken from there; the others are made now, and the grid takes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...cli import console
from ...errors import Interrupted, UserError
from ...files import MANIFEST
from ...progress import ProgressReporter
from .cell import bundle_of_cell
from .display import CellLine, GridDisplay
from .grid import Cell, Overrides
from .keys import keys_of
from .report import cell_name
from .run import chosen_parts, prepared
from .store import Store
from .workers import run_all

EPILOG = console.examples(
    "python -m mpq_export.pipelines.ablation.bundles --part methods --to out/methods",
)


@dataclass(frozen=True)
class BundleJob:
    """One bundle, for a process of its own."""

    cell: Cell
    store: Store

    def run(self, progress: ProgressReporter) -> None:
        """Make it, or go on with it."""
        with self.store.locked(keys_of(self.cell).bundle, wait=False):
            bundle_of_cell(self.cell, self.store, progress)


def named_cells(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The cells by folder names such as ``mpq-dmv2-w3a4``, with the seed where there are several;
    in order. Raises UserError where two would have one name."""
    seeds = {cell.seed for cell in cells}
    named: dict[str, Cell] = {}
    for cell in cells:
        words = [cell.label, cell.bits, *([f"seed{cell.seed}"] if len(seeds) > 1 else [])]
        name = re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-")
        if name in named:
            raise UserError(
                f"Two bundles would be called '{name}'",
                where="--part",
                why=f"{cell_name(named[name])}; {cell_name(cell)}",
                fix="Take a part whose cells differ in their labels, bits or seeds",
            )
        named[name] = cell
    return named


def make_missing(cells: Sequence[Cell], store: Store, workers: int) -> dict[str, str]:
    """Make what is not there; why it could not be, by the cell's name."""
    missing = [c for c in cells if not (store.bundle(keys_of(c).bundle) / MANIFEST).is_file()]
    failures: dict[str, str] = {}
    done = len(cells) - len(missing)
    with GridDisplay(len(cells), done, "bundles") as display:

        def line_of(job: BundleJob) -> CellLine:
            return display.begin(job, cell_name(job.cell))

        jobs = [BundleJob(cell, store) for cell in missing]
        with closing(run_all(BundleJob.run, jobs, workers, line_of)) as endings:
            for job, ending in endings:
                display.end(job)
                name = cell_name(job.cell)
                if ending.why:
                    failures[name] = ending.why
                else:
                    done += 1
                console.say(f"{name}: {ending.outcome.value}. {ending.why}".rstrip())
                display.cells_done(done, None)
    return failures


def link(named: Mapping[str, Cell], store: Store, folder: Path) -> None:
    """Links to the bundles by their names; raises UserError where something else has a name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cell in named.items():
        target, path = store.bundle(keys_of(cell).bundle), folder / name
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            raise UserError(
                "A file or folder is where a link to a bundle goes",
                where=path,
                fix="Move it away, or choose another folder by --to",
            )
        path.symlink_to(os.path.relpath(target, folder), target_is_directory=True)


def main(
    part: Annotated[str, typer.Option(help="Whose bundles.")],
    to: Annotated[Path, typer.Option(help="Folder of links to them.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Bundles at a time; default 2, with a GPU 1."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the grid.")] = Path("out/ablation"),
) -> None:
    """Make the bundles of a part where they are missing, and link to all by name."""
    (chosen,) = chosen_parts([part], Overrides())
    store, named = Store(out), named_cells(chosen.cells)
    try:
        failures = make_missing(list(named.values()), store, prepared(workers))
    except KeyboardInterrupt:
        fix = "The same command goes on"
        raise Interrupted("Stopped before all bundles were made", where=out, fix=fix) from None
    if failures:
        raise typer.Exit(console.CHECK_FAILED)
    link(named, store, to)
    console.say(f"{len(named)} bundles are in {to}.")


if __name__ == "__main__":
    console.run(main, EPILOG)
