"""Opening a row's denoiser, and the step that a worker times."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import read_bundle
from ...drawing import drawer_around
from ...lowering.graph_inputs import SAMPLE, TIMESTEP
from ...pipelines.registry import DrawRequest
from ...runtimes.cuda.gpu import gpu_here
from ...runtimes.cuda.memory_gauge import GpuMemory
from ...runtimes.denoiser import Denoiser, open_denoiser
from ...runtimes.names import ENGINE_RUNTIMES, Runtime
from ..baselines.inputs import Inputs
from ..baselines.onnx_denoiser import OnnxDenoiser
from ..timing.steps import Step


def open_row(folder: Path, runtime: str | None, batch: int | None = None) -> Denoiser[Any]:
    """The denoiser of a bundle in a runtime, or of a baseline where that is None.

    ``batch`` is that of all its calls, where that is known.
    """
    if runtime is not None:
        return open_denoiser(read_bundle(folder), Runtime(runtime))
    return OnnxDenoiser(folder, threads_of_process(), batch)


def threads_of_process() -> int:
    """What OMP_NUM_THREADS says, which whoever starts a row's process sets."""
    return int(os.environ["OMP_NUM_THREADS"])


def import_libraries(runtime: str | None, **_words: Any) -> None:
    """Import what :func:`open_step` would import within the clock of loading."""
    if runtime is None:
        import_module("onnxruntime")
    elif Runtime(runtime) is Runtime.TORCH:
        import_module("mpq_export.runtimes.torch_denoiser")
    elif Runtime(runtime) in ENGINE_RUNTIMES:
        import_module("mpq_export.runtimes.tensorrt.denoiser")
    else:
        import_module("mpq_export.runtimes.onnxruntime_denoiser")
        import_module("onnxruntime")


def open_step(
    folder: Path,
    inputs: Inputs,
    runtime: str | None,
    pipeline: str,
    request: dict[str, Any],
    batch: int | None,
) -> Step:
    """A step on ``inputs``, and images as ``request`` wants them.

    Args:
        folder: the bundle's or the baseline's.
        inputs: of a denoising step.
        runtime: of a bundle.
        pipeline: the folder of the bundle in whose pipeline images are drawn.
        request: the fields of a DrawRequest; all its images are one batch.
        batch: of all calls, where that is known.
    """
    sample, timestep = inputs[SAMPLE], float(inputs[TIMESTEP][0])
    gauge = _gauge(runtime)
    denoiser = open_row(folder, runtime, batch)
    named: dict[str, Any] = {k: v for k, v in inputs.items() if k not in (SAMPLE, TIMESTEP)}
    asked: Any = sample
    if denoiser.array_type is not np.ndarray:
        import torch

        asked = torch.from_numpy(sample)
        named = {name: torch.from_numpy(value) for name, value in named.items()}
    wanted = DrawRequest(**{**request, "prompts": tuple(request["prompts"])})
    # Made when images are first asked for: it reads another bundle, and may import torch.
    drawers: list[Any] = []

    def draw() -> Any:
        if not drawers:
            drawers.append(drawer_around(read_bundle(pipeline), denoiser, wanted))
        return drawers[0].draw_batch(range(wanted.num_images))

    def taken() -> int | str:
        return gauge if isinstance(gauge, str) else gauge.taken()

    return Step(
        lambda: denoiser(asked, timestep, **named),
        str(denoiser.selection),
        draw,
        None if gauge == "" else taken,
    )


def _gauge(runtime: str | None) -> GpuMemory | str:
    """Of the GPU that a row takes memory on, why it cannot be had, or empty where it runs on none.

    Torch runs on the processor where there is no GPU, which is no reason for anything.
    """
    if runtime is None or Runtime(runtime) not in (Runtime.TORCH, *ENGINE_RUNTIMES):
        return ""
    if Runtime(runtime) is Runtime.TORCH and isinstance(gpu_here(), str):
        return ""
    return GpuMemory.set_here()
