"""All rows timed together: single steps, then whole drawings, in the same rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...pipelines.registry import DrawRequest, family_registration
from ...progress import ProgressReporter
from ..baselines.inputs import draw_inputs
from ..timing.rounds import Cell, Worker, WorkerFailed, draw_in_turns, measure_in_turns
from .rows import Row

WARM_UP_STEPS = 3
_OPENER = "mpq_export.evaluation.bench.opening"


@dataclass(frozen=True)
class Sitting:
    """How rows are timed.

    Attributes:
        bundle: whose model the inputs are for, and in whose pipeline baselines draw.
        request: its number of images is the batch, of steps and of drawings.
        rounds: of each.
        processors: those that every row's process is pinned to; as many threads.
    """

    bundle: Bundle
    request: DrawRequest
    rounds: int
    processors: tuple[int, ...]

    def hold(
        self, rows: Sequence[Row], progress: ProgressReporter, start: Callable[..., Worker] = Worker
    ) -> list[Cell]:
        """A cell for every row, in order; one that failed says why."""
        cells = [Cell(row.name, file_bytes=row.file_bytes) for row in rows]
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            inputs = scratch / "inputs.npz"
            np.savez(inputs, allow_pickle=False, **self._inputs())
            started: list[tuple[Worker, Cell]] = []
            progress.start("load", len(rows))
            for row, cell in zip(rows, cells, strict=True):
                worker = stack.enter_context(start(self.processors))
                try:
                    answer = worker.load(_OPENER, row.folder, inputs, self._words(row))
                    warm = worker.ask("warm up", steps=WARM_UP_STEPS)
                    cell.gpu_memory = warm.get("gpu_memory")
                    cell.load_seconds, cell.runs_as = answer["seconds"], answer["runs_as"]
                    started.append((worker, cell))
                except WorkerFailed as error:
                    cell.fail(error)
                progress.advance()
            progress.start("steps", self.rounds)
            measure_in_turns(*_columns(started), self.rounds, progress.advance)
            progress.start("images", self.rounds)
            draw_in_turns(*_columns(started), self.rounds, progress.advance)
        return cells

    def _inputs(self) -> dict[str, np.ndarray]:
        """The step that all rows run; the timestep is one of the bundle's own."""
        rng = np.random.default_rng(self.request.seed)
        inputs = draw_inputs(self.bundle.model_config, self.request.num_images, rng)
        middle = self.bundle.timesteps[len(self.bundle.timesteps) // 2]
        return {**inputs, "timestep": np.array([middle], np.float32)}

    def _words(self, row: Row) -> dict[str, Any]:
        # What draws in latents or with guidance calls its denoiser with other batches, too.
        alone = family_registration(self.bundle.quantization.family).pixel_space
        return {
            "batch": self.request.num_images if alone else None,
            "runtime": None if row.runtime is None else row.runtime.value,
            "pipeline": str(self.bundle.path if row.runtime is None else row.folder),
            "request": asdict(self.request),
        }


def _columns(pairs: Sequence[tuple[Worker, Cell]]) -> tuple[list[Worker], list[Cell]]:
    """Those that still run."""
    running = [(worker, cell) for worker, cell in pairs if cell.failure is None]
    return [worker for worker, _ in running], [cell for _, cell in running]
