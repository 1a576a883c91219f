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
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[3]
_CASES, _EMULATED_CASES, _SANITIZED_CASES = 400, 6, 24
_SANITIZER_SECONDS = 90
_SECONDS = 420
_MOST_CHARACTERS, _MOST_TEST_CHARACTERS = 400, 8000
_TESTS_NEED = ("pytest", "diffusers", "onnx", "pydantic", "safetensors")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")


def exactness(emulated: bool) -> dict[str, Any]:
    """Golden and random cases, and every plane count on every path; also under the sanitizer."""
    if not (CHECKOUT / "tests" / "plugins" / "kernels").is_dir():
        return {"skipped": "it needs the tests of a checkout, and this is an installed package"}
    if emulated:
        result, _ = _cases(_EMULATED_CASES, ["--emulated", "--planes", "1"])
        return {**result, "sanitizer": {"skipped": "the emulation watches every access itself"}}
    result, _ = _cases(_CASES, [])
    return {**result, "sanitizer": _sanitized()}


def _sanitized() -> dict[str, Any]:
    """The sanitizer's errors; one that does not come to a summary has said nothing of kernels."""
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if tool is None:
        return {"skipped": "compute-sanitizer was not found"}
    # Every buffer an allocation of its own: what lies beside one belongs to nobody.
    alone = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"]
    prefix = [*alone, tool, "--tool", "memcheck", "--report-api-errors", "no"]
    try:
        result, said = _cases(_SANITIZED_CASES, ["--planes", "1"], prefix, _SANITIZER_SECONDS)
    except subprocess.TimeoutExpired:
        return {"skipped": f"it was not done after {_SANITIZER_SECONDS} s"}
    found = _SUMMARY.search(said)
    if found is None:
        return {"skipped": f"it gave no summary: {said.strip()[-_MOST_CHARACTERS:]}"}
    errors = int(found[1])
    return {**result, "errors": errors, "exact": errors == 0 and result["exact"]}


def _cases(
    count: int, arguments: Sequence[str], prefix: Sequence[str] = (), seconds: int = _SECONDS
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
        return {**result, "exact": not result["differing"]}, said


def marked_tests(emulated: bool) -> dict[str, Any]:
    """What pytest says of all tests marked ``gpu``."""
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
        _SECONDS,
    )
    last = (said.strip().splitlines() or [""])[-1]
    result = {"passed": code == 0 and " passed" in last, "summary": last}
    return result if result["passed"] else {**result, "said": said[-_MOST_TEST_CHARACTERS:]}


def _run(command: Sequence[str], seconds: int) -> tuple[int, str]:
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
