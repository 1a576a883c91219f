"""Which TensorRT is installed, without loading it into this process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ...errors import RuntimeUnavailable, UserError
from ..cuda.gpu import Gpu
from ..names import ENGINE_RUNTIMES, Runtime
from .trtexec import find_trtexec, trtexec_version

MODULES = {Runtime.TRT: "tensorrt", Runtime.TRT_RTX: "tensorrt_rtx"}
RTX_CAPABILITIES = ("80", "86", "89", "120", "121")
"""Of GPUs that one engine of TensorRT-RTX serves. It knows 75, too, which our kernels do not."""
_LONGEST_IMPORT = 120


@dataclass(frozen=True)
class Installed:
    """A TensorRT.

    Attributes:
        runtime: ``trt`` or ``trt-rtx``.
        version: its own, such as ``10.3.0``.
        trtexec: what builds its engines where it has no bindings for this Python; else None.
    """

    runtime: Runtime
    version: str
    trtexec: Path | None = None

    def __str__(self) -> str:
        name = "TensorRT" if self.runtime is Runtime.TRT else "TensorRT-RTX"
        return f"{name} {self.version}"

    def capabilities(self, gpu: Gpu | str) -> tuple[str, ...]:
        """Of the GPUs that an engine built here would run on.

        Raises:
            RuntimeUnavailable: the GPU is one that TensorRT-RTX does not know, or TensorRT has none
                to build for.
        """
        if self.runtime is Runtime.TRT_RTX:
            if isinstance(gpu, Gpu) and gpu.sm not in RTX_CAPABILITIES:
                raise RuntimeUnavailable(
                    "TensorRT-RTX does not know this GPU",
                    where=gpu.name,
                    why=f"Its compute capability is {gpu.sm}, engines are for "
                    f"{', '.join(RTX_CAPABILITIES)}",
                    fix="Install TensorRT itself and use --runtime trt",
                )
            return RTX_CAPABILITIES
        if isinstance(gpu, str):
            raise RuntimeUnavailable(
                "TensorRT builds engines only on the GPU that runs them",
                why=gpu,
                fix="Run mpq-build on that machine, or use --runtime trt-rtx",
            )
        return (gpu.sm,)


@cache
def installed(runtime: Runtime) -> Installed:
    """The TensorRT of a runtime, by its bindings or as trtexec alone; raises RuntimeUnavailable
    where it cannot be used."""
    module = MODULES[runtime]
    if find_spec(module) is None:
        if runtime is Runtime.TRT and (program := find_trtexec()) is not None:
            return Installed(runtime, trtexec_version(), program)
        raise _missing(runtime, "It is not installed")
    try:
        # Importing it loads gigabytes of libraries, and may end a process that lacks one of them.
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}; print({module}.__version__)"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST_IMPORT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _missing(runtime, "Importing it took minutes") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise _missing(runtime, f"Importing it failed: {last}")
    return Installed(runtime, done.stdout.split()[-1])


def usual_runtime(gpu: Gpu | str) -> Runtime:
    """TensorRT where it and a GPU are there, else TensorRT-RTX.

    Raises:
        RuntimeUnavailable: neither can build here.
    """
    reasons = []
    for runtime in ENGINE_RUNTIMES:
        try:
            installed(runtime).capabilities(gpu)
        except UserError as error:
            reasons.append(f"{runtime.value}: {error.paragraph()}")
        else:
            return runtime
    raise RuntimeUnavailable(
        "No engine can be built here",
        why=" ".join(reasons),
        fix="Copy the bundle to the machine that will run it, and run mpq-build there",
    )


def _missing(runtime: Runtime, why: str) -> RuntimeUnavailable:
    if runtime is Runtime.TRT_RTX:
        fix = "Install it with: pip install 'mpq-export[trt]'"
    else:
        fix = "It comes with JetPack or NVIDIA's SDK, with bindings for this Python"
    return RuntimeUnavailable(
        f"The Python package '{MODULES[runtime]}' cannot be used", why=why, fix=fix
    )
