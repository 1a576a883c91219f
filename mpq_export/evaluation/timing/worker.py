"""A model's own process: it opens one model and runs it whenever its parent says so.

One JSON object per line each way. Requests are ``{"do": "load", "opener": MODULE, "folder": ...,
"inputs": FILE, "words": {...}}`` (see ``steps``), then ``{"do": "warm up", "steps": ...}``,
``{"do": "round"}`` and ``{"do": "images"}`` as often as wanted, and ``{"do": "memory"}``; each is
answered by one object, ``{"error": ...}`` where it failed. At the end of the requests the process
ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from .failures import one_line
from .steps import Step


class _Session:
    """What the requests act on."""

    step: Step

    def __init__(self) -> None:
        self._actions: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "warm up": self.warm_up,
            "round": self.round,
            "images": self.images,
            "memory": self.memory,
        }

    def load(self, opener: str, folder: str, inputs: str, words: dict[str, Any]) -> dict[str, Any]:
        open_step = import_module(opener).open_step
        with np.load(inputs) as arrays:
            drawn = dict(arrays)
        started = time.perf_counter()
        self.step = open_step(Path(folder), drawn, **words)
        return {"seconds": time.perf_counter() - started, "runs_as": self.step.runs_as}

    def warm_up(self, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            self.step.run()
        return {}

    def round(self) -> dict[str, Any]:
        self.step.run()  # another process had the caches
        started = time.perf_counter()
        self.step.run()
        return {"ms": 1e3 * (time.perf_counter() - started)}

    def images(self) -> dict[str, Any]:
        assert self.step.draw is not None, "the opener was not asked for images"
        started = time.perf_counter()
        self.step.draw()
        return {"ms": 1e3 * (time.perf_counter() - started)}

    def memory(self) -> dict[str, Any]:
        return {"peak_bytes": _peak_bytes(Path("/proc/self/status").read_text(encoding="ascii"))}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        words = {key: value for key, value in request.items() if key != "do"}
        try:
            return self._actions[request["do"]](**words)
        except Exception as error:  # whatever a library raises is this backend's result
            return {"error": one_line(error)}


def _peak_bytes(status: str) -> int:
    """``VmHWM`` of ``/proc/PID/status``: the largest resident memory so far."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _own_stdout() -> IO[str]:
    """The pipe to the parent; what libraries print goes to stderr instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def main() -> None:
    """Answer requests until there are no more."""
    session, pipe = _Session(), _own_stdout()
    for line in sys.stdin:
        pipe.write(json.dumps(session.answer(json.loads(line))) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
