"""A part of the grid as files: a table, its figures, two pictures; of what is done so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...evaluation.machine import describe_machine
from ...evaluation.report_files import write_report
from .grid import Cell, Measure, Part
from .keys import EPOCH, Keys, keys_of
from .measures import SHOWN
from .pictures import write_chart, write_samples
from .rows import Entry, Row, rows_of
from .store import Store
from .tables import markdown_table
from .targets import Target, targets_of

_LEGENDS = {
    Measure.IMAGES: "Images are drawn by the deployed model in ONNX Runtime. FD is the Frechet "
    "distance over the family's classifier; fp32 drew from the same noise, and two fp32 sets of "
    "other noise are the unpaired ones. ± is the standard deviation over seeds; in brackets, for "
    "one seed, that over resampled images. Noise error is `norm(quantised - full) / norm(full)` "
    "of the predictions along 48 full-precision trajectories of a seed that nothing else uses. "
    "Seconds of one core are those that a training computed, whatever else the machine did.",
    Measure.PREDICTIONS: "Nothing is trained and no image drawn. Noise error is "
    "`norm(quantised - full) / norm(full)` of the deployed model's predictions along 48 "
    "full-precision trajectories of a seed that nothing else uses; ± is the standard deviation "
    "over seeds.",
    Measure.DEPLOYMENT: "The same bundle draws the same noise in ONNX Runtime and in torch. Nodes "
    "are compared bit for bit with the integer reference. The noise of the difference between "
    "both FDs is its standard deviation over resampled images.",
}


@dataclass(frozen=True)
class PartReport:
    """What is known of a part now."""

    part: Part
    command: str
    entries: Sequence[Entry]

    @classmethod
    def of(cls, part: Part, command: str, store: Store, failures: Mapping[str, str]) -> PartReport:
        """From the store; ``failures`` are the reasons of this run, by key."""
        return cls(part, command, [_entry(cell, store, failures) for cell in part.cells])

    @property
    def rows(self) -> list[Row]:
        """Of the part's table."""
        return rows_of(self.entries)

    @property
    def missing(self) -> list[Entry]:
        """What was not measured."""
        return [entry for entry in self.entries if entry.figures is None]

    def write(self, folder: Path, store: Store) -> None:
        """Write ``ablation_PART.md``, ``.json``, ``.png`` and ``_samples.png`` into a folder."""
        stem = f"ablation_{self.part.name.replace('-', '_')}"
        targets = targets_of(self.part.name, self.rows)
        title = self.part.title
        by_bits = self.part.name in ("digits", "digits-dit")
        write_chart(folder / f"{stem}.png", title, self.rows, by_bits)
        shown, samples = _drawn(self.entries), folder / f"{stem}_samples.png"
        # Of cells that were measured elsewhere the picture of that run stays.
        if shown and all(store.has_images(key) for key in _sample_keys(shown)):
            write_samples(samples, _sample_rows(shown, store))
        pictures = [f"{stem}.png"] if any(row.done for row in self.rows) else []
        if shown and samples.is_file():
            pictures.append(samples.name)
        text = self._text(targets, pictures)
        write_report(folder, stem, self._data(targets), text)

    def _data(self, targets: Sequence[Target]) -> dict[str, Any]:
        return {
            "command": self.command,
            "machine": describe_machine(),
            "epoch": EPOCH,
            "part": self.part.name,
            "targets": [{**asdict(target), "verdict": target.verdict} for target in targets],
            "cells": [_cell_data(entry) for entry in self.entries],
        }

    def _text(self, targets: Sequence[Target], pictures: Sequence[str]) -> str:
        lines = [f"# {self.part.title}", "", f"Command: `{self.command}`.", ""]
        done = len(self.entries) - len(self.missing)
        lines += [f"{done} of {len(self.entries)} cells are done.", "", *_settings(self.entries)]
        measure = self.part.cells[0].measure
        lines += ["", _LEGENDS[measure], ""]
        if done:
            lines += [*_reference_lines(self.entries), *markdown_table(self.rows, measure), ""]
        lines += [line for name in pictures for line in (f"![{self.part.title}]({name})", "")]
        if targets:
            lines += ["## Targets", "", "| what | asked | measured | |", "|---|---|---|---|"]
            lines += [f"| {t.what} | {t.asked} | {t.measured} | {t.verdict} |" for t in targets]
            lines.append("")
        if self.missing:
            lines += ["## Missing", ""]
            lines += [f"- {cell_name(entry.cell)}: {entry.missing}" for entry in self.missing]
        return "\n".join(lines).rstrip() + "\n"


def cell_name(cell: Cell) -> str:
    """One line for people."""
    trained = "" if cell.weights == "none" else f", {cell.weights}"
    return f"{cell.family} {cell.bits} {cell.label}{trained}, seed {cell.seed}"


def _entry(cell: Cell, store: Store, failures: Mapping[str, str]) -> Entry:
    try:
        keys: Keys = keys_of(cell)
    except UserError as error:
        return Entry(cell, None, None, None, error.paragraph())
    figures = store.figures(keys.result)
    # Of a traceback the last line.
    why = "" if figures else failures.get(keys.result, "not done yet.").splitlines()[-1]
    return Entry(cell, keys.result, figures, store.figures(keys.reference), why)


def _cell_data(entry: Entry) -> dict[str, Any]:
    cell = entry.cell
    return {
        "cell": cell_name(cell),
        "label": cell.label,
        "bits": cell.bits,
        "trained": cell.weights,
        "seed": cell.seed,
        "key": entry.key,
        "missing": entry.missing or None,
        "figures": entry.figures,
        "full_precision": entry.reference,
    }


def _settings(entries: Sequence[Entry]) -> list[str]:
    """The training that all cells share, and what they were made on."""
    cells = [entry.cell for entry in entries]
    trained = [c.recipe.training for c in cells if c.recipe.training.updates]
    lines = [
        f"{updates} updates of {groups} groups of {images} images for every trained method."
        for updates, groups, images in dict.fromkeys(
            (t.updates, t.groups, t.images_per_group) for t in trained
        )
    ]
    images = sorted({c.num_images for c in cells if c.num_images})
    drawn = f"{' or '.join(map(str, images))} images, " if images else ""
    lines.append(f"{drawn}{cells[0].num_steps} DDIM steps.")
    done = [entry.figures for entry in entries if entry.figures is not None]
    machines = dict.fromkeys(
        ", ".join([f"trained on: {f['device']}", *(f"{k} {v}" for k, v in f["machine"].items())])
        for f in done
    )
    return [*lines, *(f"Machine: {machine}." for machine in machines)]


def _reference_lines(entries: Sequence[Entry]) -> list[str]:
    """Full precision by itself, one line for each family and seed."""
    lines = {}
    for entry in entries:
        full, cell = entry.reference, entry.cell
        if full is not None and entry.figures is not None:
            lines[cell.family, cell.seed, cell.num_images] = (
                f"- Full precision ({cell.family}, seed {cell.seed}): FD to data "
                f"{full['frechet_data']:.3f}, FD between unpaired sets "
                f"{full['frechet_unpaired']:.3f} (± {full['frechet_unpaired_noise']:.3f})"
                + (f", accuracy {full['accuracy']:.1%}." if full["accuracy"] is not None else ".")
            )
    return [*lines.values(), ""] if lines else []


def _drawn(entries: Sequence[Entry]) -> list[Entry]:
    """What is shown: of every family the cells of its first seed that drew images."""
    drawn = [entry for entry in entries if entry.figures and entry.cell.num_images]
    first = {entry.cell.family: entry.cell.seed for entry in reversed(drawn)}
    return [entry for entry in drawn if entry.cell.seed == first[entry.cell.family]]


def _sample_keys(shown: Sequence[Entry]) -> list[str]:
    return [str(e.key) for e in shown] + [keys_of(e.cell).reference for e in shown]


def _sample_rows(shown: Sequence[Entry], store: Store) -> list[tuple[str, np.ndarray]]:
    """Full precision first, then every cell of the same family."""
    rows: list[tuple[str, np.ndarray]] = []
    for family in dict.fromkeys(entry.cell.family for entry in shown):
        own = [entry for entry in shown if entry.cell.family == family]
        rows.append((f"{family} fp32", store.images(keys_of(own[0].cell).reference)[:SHOWN]))
        rows += [(_sample_name(entry), store.images(str(entry.key))) for entry in own]
    return rows


def _sample_name(entry: Entry) -> str:
    cell = entry.cell
    trained = "" if cell.weights in ("none", "full") else f", {cell.weights}"
    return f"{cell.bits} {cell.label}{trained}"
