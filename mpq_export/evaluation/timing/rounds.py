"""The parent's side of the workers: starting them, and timed rounds in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .making import THREAD_VARIABLES

_WORKER = "mpq_export.evaluation.timing.worker"

_REST_SECONDS = 0.05
"""Between two turns: thread pools keep spinning for a moment after their work."""


_LAST_LINES, _MOST_CHARACTERS = 3, 300
"""Of what a process said before it died."""


class WorkerFailed(Exception):
    """One line: what a worker answered instead of a result, or how it died."""


class Worker:
    """A model in a process of its own, on the given processors; a context manager."""

    def __init__(self, processors: Sequence[int]) -> None:
        threads = dict.fromkeys(THREAD_VARIABLES, str(len(processors)))
        self._stderr = tempfile.TemporaryFile(  # noqa: SIM115 (it lives as long as the process)
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
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
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
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
            ended = f"Its process ended with status {self._process.wait()} at '{do}'"
            raise WorkerFailed(": ".join(filter(None, (ended, self._last_words()))))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self._stderr.seek(0)
        lines = deque((line.strip() for line in self._stderr if line.strip()), _LAST_LINES)
        return " / ".join(lines)[-_MOST_CHARACTERS:]

    def load(
        self, opener: str, folder: Path, inputs: Path, words: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Open a model by a module's ``open_step``; the answer has ``seconds`` and ``runs_as``."""
        return self.ask(
            "load", opener=opener, folder=str(folder), inputs=str(inputs), words=dict(words)
        )


@dataclass
class Cell:
    """One model in one sitting: times of every round in milliseconds, or why there are none.

    ``ms`` are the rounds' means of a step, ``single_ms`` all single steps of all rounds,
    ``image_ms`` whole drawings where those are timed, too;
    ``gpu_memory`` bytes on a GPU, or why they are not known, or None where there is none.
    """

    backend: str
    runs_as: str = ""
    file_bytes: int = 0
    load_seconds: float = 0.0
    peak_bytes: int = 0
    ms: list[float] = field(default_factory=list)
    failure: str | None = None
    image_ms: list[float] = field(default_factory=list)
    gpu_memory: int | str | None = None
    single_ms: list[float] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """There is no result but this."""
        self.failure, self.ms, self.single_ms, self.image_ms = str(error), [], [], []


def measure_in_turns(
    workers: Sequence[Worker],
    cells: Sequence[Cell],
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> None:
    """Fill in the steps' times and the memory of loaded workers; one that fails is left out."""
    running = list(zip(workers, cells, strict=True))
    for worker, cell in _turns(running, "round", _keep_round, rounds, on_round):
        try:
            cell.peak_bytes = worker.ask("memory")["peak_bytes"]
        except WorkerFailed as error:
            cell.fail(error)


def draw_in_turns(
    workers: Sequence[Worker],
    cells: Sequence[Cell],
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> None:
    """Fill in the times of whole drawings of workers whose steps draw; one that fails is left out.

    Each draws once before, untimed.
    """
    running = list(zip(workers, cells, strict=True))
    running = _turns(running, "images", lambda cell, answer: None, 1, lambda: None)
    _turns(running, "images", _keep_drawing, rounds, on_round)


def _keep_round(cell: Cell, answer: Mapping[str, Any]) -> None:
    cell.ms.append(answer["ms"])
    cell.single_ms += answer["single_ms"]


def _keep_drawing(cell: Cell, answer: Mapping[str, Any]) -> None:
    cell.image_ms.append(answer["ms"])


def _turns(
    running: list[tuple[Worker, Cell]],
    request: str,
    keep: Callable[[Cell, Mapping[str, Any]], None],
    rounds: int,
    on_round: Callable[[], None],
) -> list[tuple[Worker, Cell]]:
    """Those that never failed. The order of the turns rotates, so that none always follows the
    same one."""
    for number in range(rounds):
        first = number % max(len(running), 1)
        for worker, cell in running[first:] + running[:first]:
            time.sleep(_REST_SECONDS)
            try:
                keep(cell, worker.ask(request))
            except WorkerFailed as error:
                cell.fail(error)
        running = [(worker, cell) for worker, cell in running if cell.failure is None]
        on_round()
    return running
