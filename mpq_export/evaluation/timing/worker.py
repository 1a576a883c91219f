"""A model's own process: it opens one model and runs it whenever its parent says so.

One JSON object per line each way. Requests are ``{"do": "load", "opener": MODULE, "folder": ...,
"inputs": FILE, "words": {...}}`` (see ``steps``), then ``{"do": "warm up", "steps": ...}``,
``{"do": "round"}`` and ``{"do": "images"}`` as often as wanted, and ``{"do": "memory"}``; each is
answered by one object, ``{"error": ...}`` where it failed. At the end of the requests the process
ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .failures import one_line
from .stdout import own_stdout
from .steps import Step

_LEAST_SECONDS = 0.1
"""Of a round: one step of a small model ends before the system lets anything else run, and so
misses what that takes from all steps alike."""

_DIGITS = 4
"""Of milliseconds: a tenth of a microsecond."""


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
        module = import_module(opener)
        import_libraries = getattr(module, "import_libraries", None)
        if import_libraries is not None:
            import_libraries(**words)
        with np.load(inputs) as arrays:
            drawn = dict(arrays)
        started = time.perf_counter()
        self.step = module.open_step(Path(folder), drawn, **words)
        return {"seconds": time.perf_counter() - started, "runs_as": self.step.runs_as}

    def warm_up(self, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            self.step.run()
        # Now, before other models are opened on the same GPU.
        return {} if self.step.gpu_memory is None else {"gpu_memory": self.step.gpu_memory()}

    def round(self) -> dict[str, Any]:
        """The mean of as many steps as fill a tenth of a second, and each of them."""
        self.step.run()  # another process had the caches
        ends = [time.perf_counter()]
        while ends[-1] - ends[0] < _LEAST_SECONDS:
            self.step.run()
            ends.append(time.perf_counter())
        single = [round(1e3 * (end - begin), _DIGITS) for begin, end in pairwise(ends)]
        return {"ms": 1e3 * (ends[-1] - ends[0]) / len(single), "single_ms": single}

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


def main() -> None:
    """Answer requests until there are no more."""
    session, pipe = _Session(), own_stdout()
    for line in sys.stdin:
        pipe.write(json.dumps(session.answer(json.loads(line))) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
