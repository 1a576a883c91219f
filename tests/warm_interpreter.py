"""Installed commands in processes of their own, without importing torch anew for each.

A server, ``python warm_interpreter.py``, imports the packages that are slow to import, and nothing
of this project. For every request it forks, and the child runs the installed script: with a folder,
an environment, output files, a random state and an exit code of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
"""What commands set before they import these."""


class WarmInterpreter:
    """The server, as tests see it; one runs for all of a process."""

    def __init__(self) -> None:
        self._files = tempfile.TemporaryDirectory()
        with self._file("server").open("w", encoding="utf-8") as said:
            self._server = subprocess.Popen(
                [sys.executable, __file__], env=os.environ | _QUIET, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=said, text=True,
            )  # fmt: skip
        atexit.register(self.close)

    def _file(self, name: str) -> Path:
        return Path(self._files.name) / name

    def run(
        self,
        script: Path,
        arguments: Sequence[str],
        cwd: Path | None,
        environment: Mapping[str, str],
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run([script, *arguments], capture_output=True, text=True)`` gives."""
        words = [str(script), *arguments]
        out, err = self._file("out"), self._file("err")
        asked = {
            "words": words, "cwd": str(cwd or Path.cwd()), "environment": dict(environment),
            "out": str(out), "err": str(err),
        }  # fmt: skip
        code = self._answer(json.dumps(asked))
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

    def _answer(self, line: str) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(line, file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        if not answer:
            said = self._file("server").read_text(encoding="utf-8")
            raise RuntimeError(f"the warm interpreter has ended: {said}")
        return int(answer)

    def close(self) -> None:
        """End the server."""
        self._server.communicate()
        self._files.cleanup()


def _import_slow_packages() -> None:
    """Not ONNX Runtime, which starts a thread and is quick."""
    import accelerate  # noqa: F401
    import onnx  # noqa: F401
    import onnxscript.function_libs.torch_lib.ops  # noqa: F401
    import torch.export
    import torch.onnx._internal.exporter._core  # noqa: F401
    from diffusers import DDIMPipeline, UNet2DConditionModel, UNet2DModel  # noqa: F401


def _serve() -> dict[str, object] | None:
    """Answer requests until there are no more; a child returns with the one it is to run."""
    for line in sys.stdin:
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"{threads} threads: a fork would lose all but one"
        child = os.fork()
        if child == 0:
            asked: dict[str, object] = json.loads(line)
            return asked
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(words: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """Run a script as the interpreter that was started for it."""
    import numpy as np

    for descriptor, path, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, how)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _import_slow_packages()
    request = _serve()
    if request is not None:
        _become(**request)  # type: ignore[arg-type]
