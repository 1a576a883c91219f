"""Making what is measured in a process of its own: what it took is given back when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CannotBeMade(Exception):
    """A library could not make its artefact; one line."""


def make_apart(
    module: str,
    *words: str,
    threads: int | None = None,
    processors: Sequence[int] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """``python -m MODULE WORDS``; raises CannotBeMade with the process's last words on stderr.

    Args:
        module: what is run.
        words: its arguments.
        threads: of its libraries; None is their own choice.
        processors: that it is pinned to, with as many threads.
        on_line: called with every line that it prints.
    """
    if processors is not None:
        threads = len(processors)
    limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **limits},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            if processors is not None:
                os.sched_setaffinity(process.pid, processors)
            for line in process.stdout:
                on_line(line.strip())
        except BaseException:
            process.kill()
            raise
        status = process.wait()
        if status:
            stderr.seek(0)
            lines = [line.strip() for line in stderr if line.strip()]
            raise CannotBeMade(lines[-1] if lines else f"exit status {status}")
