"""Jobs in processes of their own, a few at a time, with their progress told to one."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from ...cli.console import TERMINATED, quiet_libraries
from ...errors import Interrupted, UserError
from ...progress import ProgressReporter

Job = TypeVar("Job")
Work = Callable[[Job, ProgressReporter], None]


class Outcome(StrEnum):
    """How a job ended."""

    DONE = "done"
    STOPPED = "stopped"
    """On request; it can be gone on with."""
    FAILED = "failed"


@dataclass(frozen=True)
class Ending:
    """An outcome; ``why`` is empty where the job was done."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class _Running(Generic[Job]):
    job: Job
    process: Any
    pipe: Connection
    reporter: ProgressReporter

    def next_ending(self) -> Ending | None:
        """Take one message: the job's ending, or progress, which is passed on."""
        try:
            message = self.pipe.recv()
        except EOFError:
            self.process.join()
            return Ending(Outcome.FAILED, f"Its process ended with {self.process.exitcode}.")
        if isinstance(message, Ending):
            self.process.join()
            return message
        method, argument = message
        getattr(self.reporter, method)(*argument)
        return None


def run_all(
    work: Work[Job],
    jobs: Iterable[Job],
    workers: int,
    reporter_of: Callable[[Job], ProgressReporter],
) -> Iterator[tuple[Job, Ending]]:
    """Run every job in a fresh process, ``workers`` of them at a time; yield each as it ends.

    Args:
        work: a function of a module, as it is imported again there.
        jobs: can be pickled.
        workers: how many at a time.
        reporter_of: who is told of a job's progress.

    When the generator is closed early, or Ctrl-C ends its waiting, it asks the running jobs to stop
    by SIGTERM, and waits for them.
    """
    waiting, running = deque(jobs), list[_Running[Job]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running.append(_begun(work, job, reporter_of(job)))
            ready = wait([one.pipe for one in running])
            for one in [one for one in running if one.pipe in ready]:
                ending = one.next_ending()
                if ending is not None:
                    running.remove(one)
                    yield one.job, ending
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            _drain(one)


def _drain(running: _Running[Any]) -> None:
    """Wait for a job that was asked to stop; a full pipe would keep it from that."""
    while running.next_ending() is None:
        pass


def _begun(work: Work[Job], job: Job, reporter: ProgressReporter) -> _Running[Job]:
    context = get_context("spawn")  # forked processes cannot use CUDA, or torch's threads
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, job, theirs))
    process.start()
    theirs.close()
    return _Running(job, process, ours, reporter)


class _PipeProgress:
    """A progress reporter at the other end of a pipe, where a request to stop is looked for too: an
    exception that a signal raises inside a destructor is lost."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._stopping = pipe, False
        signal.signal(signal.SIGTERM, self._stop)

    def start(self, task: str, total: int) -> None:
        """Pass it on."""
        self._send("start", task, total)

    def advance(self, parts: int = 1) -> None:
        """Pass it on."""
        self._send("advance", parts)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._send("note", text)

    def _send(self, method: str, *arguments: object) -> None:
        if self._stopping:
            sys.exit(TERMINATED)
        try:
            self._pipe.send((method, arguments))
        except BrokenPipeError:  # the command is gone, and with it who would stop this job
            sys.exit(TERMINATED)

    def _stop(self, *_: object) -> None:
        self._stopping = True
        sys.exit(TERMINATED)


def _run(work: Work[Job], job: Job, pipe: Connection) -> None:
    """The whole life of a job's process."""
    os.setpgrp()  # Ctrl-C reaches the command alone, which then asks its jobs to stop
    quiet_libraries()
    try:
        work(job, _PipeProgress(pipe))
        ending = Ending(Outcome.DONE)
    except (Interrupted, SystemExit) as stop:
        ending = Ending(Outcome.STOPPED, str(stop) if isinstance(stop, Interrupted) else "")
    except UserError as error:
        ending = Ending(Outcome.FAILED, error.paragraph())
    except Exception:  # one job's fault must not end the others
        ending = Ending(Outcome.FAILED, traceback.format_exc())
    with suppress(BrokenPipeError):
        pipe.send(ending)
