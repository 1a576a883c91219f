"""One cell: its bundle is made, or gone on with, or there already; then it is judged."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...bundle import Bundle, read_bundle
from ...checkpoints import load_checkpoint
from ...errors import UserError
from ...evaluation.machine import describe_machine
from ...evaluation.size import size_report
from ...export import export_checkpoint
from ...export_request import ExportRequest
from ...files import MANIFEST, TRAINING, parse_json, staged_file, write_json
from ...lowering.names import Target
from ...precision import BitSpec
from ...progress import ProgressReporter
from ...training.log import CSV
from ...training_folder import TrainingFolder
from .grid import Cell
from .keys import EPOCH, keys_of
from .measures import measured
from .store import Record, Store

_LAST_SHARE = 10
"""The last loss is the mean of the last tenth: single updates differ by their timesteps."""


def run_cell(cell: Cell, store: Store, progress: ProgressReporter) -> None:
    """Do what is left of a cell and write its record.

    Raises CellBusy where another process does it already, Interrupted after a signal.
    """
    keys = keys_of(cell)
    # The bundle's lock: cells of several parts may need the same bundle.
    with store.locked(keys.bundle, wait=False):
        if store.figures(keys.result) is not None:
            return
        bundle = bundle_of_cell(cell, store, progress)
        started = time.perf_counter()
        judged = measured(cell, bundle, store, progress)
        figures = {
            **_description(cell),
            **judged.figures,
            **asdict(size_report(bundle)),
            **_loss_figures(bundle.path),
            **_seconds(bundle.path),
            "measuring_seconds": round(time.perf_counter() - started, 1),
        }
        store.write(keys.result, Record(figures, judged.images))


def bundle_of_cell(cell: Cell, store: Store, progress: ProgressReporter) -> Bundle:
    """The cell's bundle, lowered for ONNX Runtime; a training that was stopped goes on."""
    path = store.bundle(keys_of(cell).bundle)
    if (path / MANIFEST).is_file():
        return read_bundle(path)
    resume = cell.recipe.takes_long and TrainingFolder.of(path).is_begun()
    request = ExportRequest(
        BitSpec.parse(cell.bits),
        cell.recipe,
        (Target.ORT,),
        cell.num_steps,
        cell.seed,
        path,
        resume=resume,
    )
    with _counted(path):
        bundle = export_checkpoint(load_checkpoint(cell.checkpoint), request, progress)
    assert bundle is not None, "one process alone is the one that writes"
    return bundle


def _description(cell: Cell) -> dict[str, Any]:
    """What the cell was, for readers of its record."""
    return {
        "epoch": EPOCH,
        "family": cell.family,
        "bits": cell.bits,
        "seed": cell.seed,
        "num_steps": cell.num_steps,
        "num_images": cell.num_images,
        "recipe": cell.recipe.model_dump(mode="json"),
        "machine": describe_machine(),
    }


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"


@contextmanager
def _counted(bundle: Path) -> Iterator[None]:
    """Seconds of the block, and those that this process's threads computed in it, are added to
    those of earlier attempts; a process that is killed outright takes its own with it, but is an
    attempt."""
    before, started, computed = _seconds(bundle), time.perf_counter(), time.process_time()
    before["attempts"] += 1
    _write_seconds(bundle, before)
    try:
        yield
    finally:
        before["making_seconds"] += time.perf_counter() - started
        if before.get("computing_seconds") is not None:
            before["computing_seconds"] += time.process_time() - computed
        _write_seconds(bundle, before | {"device": _device()})


def _write_seconds(bundle: Path, seconds: dict[str, Any]) -> None:
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in seconds.items()}
    with staged_file(_seconds_file(bundle)) as stage:
        write_json(stage, rounded)


def _seconds(bundle: Path) -> dict[str, Any]:
    file = _seconds_file(bundle)
    if not file.is_file():
        return {
            "making_seconds": 0.0,
            "computing_seconds": 0.0,
            "attempts": 0,
            "device": _device(),
        }
    return parse_json(file.read_bytes(), file, UserError)


def _seconds_file(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.seconds.json")


def _loss_figures(bundle: Path) -> dict[str, float]:
    """First, highest and last loss of the training; nothing where none was."""
    file = bundle / TRAINING / CSV
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    last = losses[-max(1, len(losses) // _LAST_SHARE) :]
    return {
        "loss_first": losses[0],
        "loss_peak": max(losses),
        "loss_last": sum(last) / len(last),
    }
