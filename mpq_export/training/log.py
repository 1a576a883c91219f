"""What a training run tells of itself: its updates and its tables, as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

CSV, TABLES, PICTURE = "training.csv", "tables.csv", "training.png"
_SMOOTHING = 50


@dataclass(frozen=True)
class UpdateRecord:
    """One update.

    Attributes:
        update: its number, from 1.
        loss: task plus weighted relation.
        task: mean squared error of the prediction.
        relation: relation loss before its weight; 0 without one.
        table_change: root mean square of the logarithmic change of all activation scales.
        level_change: the same of all weight scales.
    """

    update: int
    loss: float
    task: float
    relation: float
    table_change: float
    level_change: float


@dataclass(frozen=True)
class TableChange:
    """A layer's activation table at the start and at the end: scales float32 ``[T]``, zero points
    int32 ``[T]``."""

    scale_start: np.ndarray
    scale_end: np.ndarray
    zero_point_start: np.ndarray
    zero_point_end: np.ndarray


@dataclass(frozen=True)
class TrainingLog:
    """The whole run.

    Attributes:
        records: in order.
        tables: by layer.
        timesteps: int32 ``[T]``.
    """

    records: Sequence[UpdateRecord]
    tables: Mapping[str, TableChange]
    timesteps: np.ndarray


def write_log(log: TrainingLog, folder: Path) -> None:
    """Write ``training.csv``, ``tables.csv`` and ``training.png`` into an existing folder."""
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(UpdateRecord)])
        writer.writerows(astuple(record) for record in log.records)
    with (folder / TABLES).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [field.name for field in fields(TableChange)]
        writer.writerow(["layer", "timestep", *columns])
        for layer, table in log.tables.items():
            values = (getattr(table, column) for column in columns)
            writer.writerows([layer, *row] for row in zip(log.timesteps, *values, strict=True))
    _draw(log, folder / PICTURE)


def _draw(log: TrainingLog, path: Path) -> None:
    # Without pyplot there is no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    losses, changes, tables = figure.subplots(1, 3)
    updates = [record.update for record in log.records]
    for name, colour in (("task", "tab:blue"), ("relation", "tab:orange")):
        values = np.array([getattr(record, name) for record in log.records])
        if np.any(values > 0):
            losses.plot(updates, values, color=colour, alpha=0.25, linewidth=0.6)
            losses.plot(updates, _smoothed(values), color=colour, label=name)
    losses.set(title="Loss", xlabel="update", yscale="log")
    for name, label in (("table_change", "activation scales"), ("level_change", "weight scales")):
        changes.plot(updates, [getattr(record, name) for record in log.records], label=label)
    changes.set(title="Change since the start (rms of log)", xlabel="update")
    for table in log.tables.values():
        ratio = table.scale_end / table.scale_start
        tables.plot(log.timesteps, ratio, color="tab:blue", alpha=0.3, linewidth=0.8)
    tables.set(title="Activation scales, end / start, every layer", xlabel="timestep")
    for axes in (losses, changes):
        if axes.get_lines():
            axes.legend()
    figure.savefig(path, dpi=110, format="png")


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of the last so many values."""
    width = min(_SMOOTHING, len(values))
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    result: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return result
