"""A sitting: backends that are loaded together and measured in the same rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...progress import ProgressReporter
from ..baselines.inputs import draw_inputs
from ..timing.making import CannotBeMade
from ..timing.rounds import Cell, Worker, WorkerFailed, measure_in_turns
from .artefacts import Artefact, artefact
from .backends import OURS, Backend
from .models import BenchmarkModel

WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Sitting:
    """One model at one batch size, some of ours always among the backends."""

    model: BenchmarkModel
    batch: int
    backends: tuple[Backend, ...]

    @property
    def label(self) -> str:
        """For people."""
        names = " ".join(backend.name for backend in self.backends)
        return f"{self.model.name} batch {self.batch}: {names}"


def plan(models: Sequence[BenchmarkModel], backends: Sequence[Backend]) -> Iterator[Sitting]:
    """Sittings of all models; the peers of a large model come one at a time.

    All of ours take part unless ``backends`` has some of them.
    """
    ours = tuple(backend for backend in backends if backend.is_ours) or OURS
    peers = [backend for backend in backends if not backend.is_ours]
    for model in models:
        groups = [(peer,) for peer in peers] if model.in_pairs and peers else [tuple(peers)]
        for batch in model.batches:
            yield from (Sitting(model, batch, (*ours, *group)) for group in groups)


def hold(
    sitting: Sitting, work: Path, processors: Sequence[int], rounds: int, progress: ProgressReporter
) -> list[Cell]:
    """Make what is missing, load every backend, and let them take turns."""
    cells = [Cell(backend.name) for backend in sitting.backends]
    folders = _artefacts(sitting, cells, work, progress)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(scratch / "inputs.npz", allow_pickle=False, **_inputs(sitting, work))
        started: list[Worker] = []
        progress.start("load", len(cells))
        for backend, cell in zip(sitting.backends, cells, strict=True):
            progress.advance()
            if cell.failure is not None:
                continue
            cell.file_bytes = backend.file_bytes(folders[backend.name])
            worker = stack.enter_context(Worker(processors))
            try:
                answer = worker.load(
                    backend.opener,
                    folders[backend.name],
                    scratch / "inputs.npz",
                    {"threads": len(processors)},
                )
                worker.ask("warm up", steps=WARM_UP_STEPS)
            except WorkerFailed as error:
                cell.fail(error)
                continue
            cell.load_seconds, cell.runs_as = answer["seconds"], answer["runs_as"]
            started.append(worker)
        progress.start("measure", rounds)
        measure_in_turns(started, [c for c in cells if c.failure is None], rounds, progress.advance)
    return cells


def _artefacts(
    sitting: Sitting, cells: Sequence[Cell], work: Path, progress: ProgressReporter
) -> dict[str, Path]:
    """The folder of every backend whose library could make it."""
    folders = {}
    progress.start("prepare", len(cells))
    for backend, cell in zip(sitting.backends, cells, strict=True):
        try:
            folders[backend.name] = artefact(sitting.model, backend.artefact, work)
        except CannotBeMade as error:
            cell.fail(error)
        progress.advance()
    return folders


def _inputs(sitting: Sitting, work: Path) -> dict[str, np.ndarray]:
    """The step that all backends run."""
    from ...checkpoints.configs import read_config

    checkpoint = artefact(sitting.model, Artefact.CHECKPOINT, work)
    path = next(p for p in sorted(checkpoint.rglob("config.json")) if p.parent.name != "scheduler")
    return draw_inputs(read_config(path), sitting.batch, np.random.default_rng(1))
