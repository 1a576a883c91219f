"""The kernels against the integer reference, by the repository's own cases and tests.

Each is a process of its own, so that a kernel that takes CUDA down does not take the check down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
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
_MOST_CHARACTERS = 400
_TESTS_NEED = ("pytest", "diffusers", "onnx", "pydantic", "safetensors")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")


def exactness(emulated: bool) -> dict[str, Any]:
    """Golden and random cases, and every plane count on every path; also under the sanitizer."""
    if not (CHECKOUT / "tests" / "plugins" / "kernels").is_dir():
        return {"skipped": "it needs the tests of a checkout, and this is an installed package"}
    if emulated:
        result = _cases(_EMULATED_CASES, ["--emulated", "--planes", "1"], ())
        return {**result, "sanitizer": {"skipped": "the emulation watches every access itself"}}
    return {**_cases(_CASES, [], ()), "sanitizer": _sanitized()}


def _sanitized() -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if tool is None:
        return {"skipped": "compute-sanitizer was not found"}
    # Every buffer an allocation of its own: what lies beside one belongs to nobody.
    alone = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"]
    prefix = [*alone, tool, "--tool", "memcheck", "--error-exitcode", "9"]
    return _cases(_SANITIZED_CASES, ["--planes", "1"], prefix, _SANITIZER_SECONDS)


def _cases(
    count: int, arguments: Sequence[str], prefix: Sequence[str], seconds: int = _SECONDS
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cases.json"
        command = [
            *prefix, sys.executable, "-m", "plugins.kernels.exactness",
            "--out", str(out), "--cases", str(count), *arguments,
        ]  # fmt: skip
        failure, said = _run(command, seconds)
        result: dict[str, Any] = {}
        if out.is_file():
            result = json.loads(out.read_text(encoding="utf-8"))
            result["exact"] = not result["differing"]
        if prefix:
            found = _SUMMARY.search(said)
            result["errors"] = int(found[1]) if found else None
            result["exact"] = bool(result.get("exact")) and result["errors"] == 0
        if not out.is_file():
            result |= {"exact": False, "failure": failure or said[-_MOST_CHARACTERS:]}
        return result


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
    failure, said = _run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *marked],
        _SECONDS,
    )
    last = (said.strip().splitlines() or [""])[-1]
    passed = failure is None and " passed" in last
    return {"passed": passed, "summary": last, **({} if passed else {"failure": failure or said})}


def _run(command: Sequence[str], seconds: int) -> tuple[str | None, str]:
    """Why a process did not end well, or None; and what it said."""
    path = os.pathsep.join([str(CHECKOUT / "tests"), str(CHECKOUT)])
    path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"it was not done after {seconds} s", ""
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return None, said
    tail = said.strip()[-_MOST_CHARACTERS:]
    return f"exit code {done.returncode}: {tail}", said
