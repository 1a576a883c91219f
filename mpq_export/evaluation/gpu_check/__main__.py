"""``python -m mpq_export.evaluation.gpu_check --out FOLDER``; no package but torch and numpy."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import RuntimeUnavailable, UserError
from ..machine import describe_machine
from ..timing.failures import one_line
from .exactness import exactness, marked_tests
from .report import NO_TIME, markdown, passed, write_report

PARTS = ("exactness", "tests", "kernels", "models", "engines")
_SECONDS = 570
_LAST_NETWORK_SECONDS = 45
_LAST_ENGINES_SECONDS = 45
"""What follows the last build that may begin or go on: opening, the reference, timing."""
_ENGINE_NETWORKS = 2
_ROUNDS, _EMULATED_ROUNDS = 20, 2
_FAILED, _USER_ERROR = 1, 2
_MODELS_NEED = ("diffusers", "pydantic", "safetensors", "yaml", "accelerate")
_ENGINES_NEED = (*_MODELS_NEED, "onnx", "onnxscript", "onnxruntime")


class Lines:
    """Says on stderr how far a part is."""

    def start(self, task: str, total: int) -> None:
        """A task begins."""
        self._task, self._total, self._done = task, total, 0

    def advance(self, parts: int = 1) -> None:
        """So many more are done."""
        self._done += parts
        print(f"  {self._task}: {self._done} of {self._total}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Nothing."""


def check(parts: Sequence[str], emulated: bool, seconds: float, out: Path) -> dict[str, Any]:
    """Run the parts one after the other; what is done so far is always written.

    The kernels are compiled before all of them. What begins after the last second is left out, and
    that is said.

    Raises:
        UserError: there is no GPU that the kernels run on.
    """
    started = time.monotonic()
    deadline = started + seconds
    result: dict[str, Any] = {"machine": _machine(emulated), "emulated": emulated}
    place = _place(emulated)
    result["machine"]["GPU kernels"] = place.gpu.kernels.library.origin
    result["machine"]["seconds until they were loaded"] = f"{time.monotonic() - started:.0f}"
    todo: dict[str, Callable[[], dict[str, Any]]] = {
        "exactness": lambda: exactness(emulated, deadline),
        "tests": lambda: marked_tests(emulated, deadline),
        "kernels": lambda: _products(place, deadline),
        "models": lambda: _networks(place, deadline - _LAST_NETWORK_SECONDS),
        "engines": lambda: _engines(place, deadline - _LAST_ENGINES_SECONDS),
    }
    for name in PARTS:
        if name not in parts:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            result[name] = todo[name]() if started < deadline else {"skipped": NO_TIME}
        except Exception as error:  # the other parts may still run
            result[name] = {"failure": one_line(error)}
        result[name]["seconds"] = round(time.monotonic() - started, 1)
        write_report(out, result)
    return result


def _place(emulated: bool) -> Any:
    from .place import emulated_place, real_place

    return emulated_place() if emulated else real_place()


def _products(place: Any, deadline: float) -> dict[str, Any]:
    from .products import EMULATED_PRODUCTS, PRODUCTS, measure_products

    products = EMULATED_PRODUCTS if place.emulated else PRODUCTS
    return measure_products(place, products, _rounds(place), deadline, Lines())


def _networks(place: Any, deadline: float) -> dict[str, Any]:
    if (skipped := _without(_MODELS_NEED)) is not None:
        return skipped
    from .networks import measure_networks
    from .random_models import EMULATED_NETWORKS, NETWORKS

    networks = EMULATED_NETWORKS if place.emulated else NETWORKS
    return measure_networks(place, networks, _rounds(place), deadline, Lines())


def _engines(place: Any, deadline: float) -> dict[str, Any]:
    if (skipped := _without(_ENGINES_NEED)) is not None:
        return skipped
    from .engines import EmulatedEngines, Engines, TensorRtEngines, measure_engines
    from .random_models import EMULATED_NETWORKS, NETWORKS

    try:
        engines: Engines = EmulatedEngines() if place.emulated else TensorRtEngines(deadline)
    except RuntimeUnavailable as error:
        return {"skipped": error.paragraph().rstrip(".")}
    networks = EMULATED_NETWORKS if place.emulated else NETWORKS[:_ENGINE_NETWORKS]
    return measure_engines(place, engines, networks, _rounds(place), deadline, Lines())


def _without(packages: Sequence[str]) -> dict[str, Any] | None:
    """Why a part is not run, where one of these is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    return {"skipped": f"not installed: {', '.join(missing)}"} if missing else None


def _rounds(place: Any) -> int:
    return _EMULATED_ROUNDS if place.emulated else _ROUNDS


def _machine(emulated: bool) -> dict[str, str]:
    import torch

    described = describe_machine()
    if emulated:
        return {"GPU": "emulated", **described}
    if not torch.cuda.is_available():
        raise UserError(
            "There is no GPU to check",
            why="torch finds none",
            fix="Run this on a machine with an NVIDIA GPU and a CUDA build of torch, or with "
            "--emulated",
        )
    from ...runtimes.gpu_kernels.torch_gpu import described_gpu

    properties = torch.cuda.get_device_properties(described_gpu().ordinal)
    gpu = {
        "GPU": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "GPU memory MB": str(properties.total_memory >> 20),
        "CUDA of torch": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "nvcc": _nvcc(),
    }
    return {**gpu, **described}


def _nvcc() -> str:
    from ...runtimes.gpu_kernels.library_file import nvcc_program

    if (program := nvcc_program()) is None:
        return "not found"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "version unknown"


def main() -> int:
    """Exit code 1 if something that ran is not exact, 2 where nothing can run."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeatable")
    parser.add_argument("--emulated", action="store_true", help="tiny shapes, no GPU")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        help="from the start; what would begin later is left out",
    )
    given = parser.parse_args()
    os.makedirs(given.out, exist_ok=True)
    try:
        result = check(given.part or PARTS, given.emulated, given.seconds, given.out)
    except UserError as error:
        print(f"Error: {error.paragraph()}", file=sys.stderr)
        return _USER_ERROR
    print(markdown(result))
    return 0 if passed(result) else _FAILED


if __name__ == "__main__":
    sys.exit(main())
