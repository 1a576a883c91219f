"""The parent's side of the workers: starting them, and timed rounds in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .backends import Backend

_WORKER = "mpq_export.evaluation.cpu_benchmark.worker"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_REST_SECONDS = 0.05
"""Between two turns: thread pools keep spinning for a moment after their work."""


class WorkerFailed(Exception):
    """One line: what a worker answered instead of a result, or how it died."""


class Worker:
    """A backend in a process of its own, on the given processors; a context manager."""

    def __init__(self, backend: Backend, processors: Sequence[int]) -> None:
        self.backend, self._threads = backend, len(processors)
        threads = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads},
        )
        os.sched_setaffinity(self._process.pid, processors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        """The answer to one request; raises WorkerFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # a closed pipe; the exit status says more
            line = ""
        if not line:
            raise WorkerFailed(f"its process ended with status {self._process.wait()} at '{do}'")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def load(self, artefact: Path, inputs: Path) -> dict[str, Any]:
        """Open an artefact; the answer has ``seconds`` and ``runs_as``."""
        return self.ask(
            "load",
            backend=self.backend.name,
            artefact=str(artefact),
            inputs=str(inputs),
            threads=self._threads,
        )


@dataclass
class Cell:
    """One backend in one sitting: times of every round in milliseconds, or why there are none."""

    backend: str
    runs_as: str = ""
    file_bytes: int = 0
    load_seconds: float = 0.0
    peak_bytes: int = 0
    ms: list[float] = field(default_factory=list)
    failure: str | None = None

    def fail(self, error: Exception) -> None:
        """There is no result but this."""
        self.failure, self.ms = str(error), []


def measure_in_turns(
    workers: Sequence[Worker],
    cells: Sequence[Cell],
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> None:
    """Fill in the times and the memory of loaded workers; a worker that fails is left out.

    The order of the turns rotates, so that no backend always follows the same one.
    """
    running = list(zip(workers, cells, strict=True))
    for number in range(rounds):
        first = number % max(len(running), 1)
        for worker, cell in running[first:] + running[:first]:
            time.sleep(_REST_SECONDS)
            try:
                cell.ms.append(worker.ask("round")["ms"])
            except WorkerFailed as error:
                cell.fail(error)
        running = [(worker, cell) for worker, cell in running if cell.failure is None]
        on_round()
    for worker, cell in running:
        try:
            cell.peak_bytes = worker.ask("memory")["peak_bytes"]
        except WorkerFailed as error:
            cell.fail(error)
