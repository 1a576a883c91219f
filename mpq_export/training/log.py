"""What a training run tells of itself: one record per update, as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

CSV, PICTURE = "training.csv", "training.png"
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
class TrainingLog:
    """The whole run.

    Attributes:
        records: in order.
        table_changes: activation scale at the end divided by that at the start, float32 ``[T]``, by
            layer.
        timesteps: int32 ``[T]``.
    """

    records: Sequence[UpdateRecord]
    table_changes: Mapping[str, np.ndarray]
    timesteps: np.ndarray


def write_log(log: TrainingLog, folder: Path) -> None:
    """Write ``training.csv`` and ``training.png`` into an existing folder."""
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(UpdateRecord)])
        writer.writerows(astuple(record) for record in log.records)
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
    for values in log.table_changes.values():
        tables.plot(log.timesteps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
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
