"""The kernels against the integer reference, by the repository's own cases and tests.

Each is a process of its own, so that a kernel that takes CUDA down does not take the check down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .report import NO_TIME

CHECKOUT = Path(__file__).parents[3]
_CASES, _EMULATED_CASES, _FEW_CASES = 400, 6, 24
_SANITIZER_SECONDS, _DRIVER_SECONDS = 90, 120
_LEAST_SECONDS = 10
_MOST_CHARACTERS, _MOST_TEST_CHARACTERS = 400, 8000
_TESTS_NEED = ("pytest", "diffusers", "onnx", "pydantic", "safetensors")
_SANITIZERS = {
    "memcheck": (("--report-api-errors", "no"), re.compile(r"ERROR SUMMARY: (\d+) error")),
    "racecheck": ((), re.compile(r"RACECHECK SUMMARY: (\d+) hazard")),
}
"""What compute-sanitizer looks for, its arguments for that, and how many it says it has found."""


def exactness(emulated: bool, deadline: float) -> dict[str, Any]:
    """Golden and random cases, and every plane count on every path; also under the sanitizers.

    Args:
        emulated: whether on the emulated GPU.
        deadline: of ``time.monotonic``; raises subprocess.TimeoutExpired for cases that are not
            done then.
    """
    if not (CHECKOUT / "tests" / "plugins" / "kernels").is_dir():
        return {"skipped": "it needs the tests of a checkout, and this is an installed package"}
    if emulated:
        few = ["--emulated", "--planes", "1"]
        result, _ = _cases(_EMULATED_CASES, few, seconds=_left(deadline))
        driver, _ = _cases(_EMULATED_CASES, [*few, "--driver"], seconds=_left(deadline))
        skipped = {"skipped": "the emulation watches every access itself"}
        return {**result, "driver": driver, "sanitizers": dict.fromkeys(_SANITIZERS, skipped)}
    result, _ = _cases(_CASES, [], seconds=_left(deadline))
    return {
        **result,
        "driver": _by_driver(deadline),
        "sanitizers": {tool: _sanitized(tool, deadline) for tool in _SANITIZERS},
    }


def _by_driver(deadline: float) -> dict[str, Any]:
    """The same through NVRTC and CUDA's driver, as machines without nvcc run the kernels."""
    if _left(deadline) < _LEAST_SECONDS:
        return {"skipped": NO_TIME}
    seconds = min(_DRIVER_SECONDS, _left(deadline))
    try:
        return _cases(_FEW_CASES, ["--planes", "1", "--driver"], seconds=seconds)[0]
    except subprocess.TimeoutExpired:  # NVRTC may have to compile first
        return {"skipped": f"it was not done after {seconds:.0f} s"}


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _sanitized(name: str, deadline: float) -> dict[str, Any]:
    """A sanitizer's errors; one that does not come to a summary has said nothing of kernels."""
    seconds = min(_SANITIZER_SECONDS, _left(deadline))
    if seconds < _LEAST_SECONDS:
        return {"skipped": NO_TIME}
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if tool is None:
        return {"skipped": "compute-sanitizer was not found"}
    # Every buffer an allocation of its own: what lies beside one belongs to nobody.
    alone = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"]
    arguments, summary = _SANITIZERS[name]
    prefix = [*alone, tool, "--tool", name, *arguments]
    try:
        result, said = _cases(_FEW_CASES, ["--planes", "1"], prefix, seconds=seconds)
    except subprocess.TimeoutExpired:
        return {"skipped": f"it was not done after {seconds:.0f} s"}
    found = summary.search(said)
    if found is None:
        return {"skipped": f"it gave no summary: {said.strip()[-_MOST_CHARACTERS:]}"}
    errors = int(found[1])
    return {**result, "errors": errors, "exact": errors == 0 and result["exact"]}


def _cases(
    count: int, arguments: Sequence[str], prefix: Sequence[str] = (), *, seconds: float
) -> tuple[dict[str, Any], str]:
    """What the cases came to, and what the process said."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cases.json"
        command = [
            *prefix, sys.executable, "-m", "plugins.kernels.exactness",
            "--out", str(out), "--cases", str(count), *arguments,
        ]  # fmt: skip
        code, said = _run(command, seconds)
        if not out.is_file():
            tail = said.strip()[-_MOST_CHARACTERS:]
            return {"exact": False, "failure": f"exit code {code}: {tail}"}, said
        result = json.loads(out.read_text(encoding="utf-8"))
        if "skipped" in result:
            return result, said
        return {**result, "exact": not result["differing"]}, said


def marked_tests(emulated: bool, deadline: float) -> dict[str, Any]:
    """What pytest says of all tests marked ``gpu``; raises as :func:`exactness`."""
    if emulated:
        return {"skipped": "there is no GPU"}
    missing = [name for name in _TESTS_NEED if find_spec(name) is None]
    if missing:
        return {"skipped": f"not installed: {', '.join(missing)}"}
    marked = [
        str(path)
        for path in sorted((CHECKOUT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    ]
    if not marked:
        return {"skipped": "it needs the tests of a checkout, and this is an installed package"}
    code, said = _run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *marked],
        _left(deadline),
    )
    last = (said.strip().splitlines() or [""])[-1]
    result = {"passed": code == 0 and " passed" in last, "summary": last}
    return result if result["passed"] else {**result, "said": said[-_MOST_TEST_CHARACTERS:]}


def _run(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """A process's exit code, and what it said.

    Raises subprocess.TimeoutExpired, and then nothing that it started is left: a sanitizer's own
    child would go on and disturb what is timed next.
    """
    path = os.pathsep.join([str(CHECKOUT / "tests"), str(CHECKOUT)])
    path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:  # also when the user interrupts: a session of its own hears nothing
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out + err
