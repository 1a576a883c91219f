"""The packed model, as users run it."""

from pathlib import Path

import onnxruntime  # noqa: F401 - importing it is no part of loading a model

from ....bundle import read_bundle
from ....runtimes.onnxruntime_denoiser import OnnxRuntimeDenoiser
from ...baselines.inputs import Inputs
from ...timing.steps import Step


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """``--runtime ort``; it takes its threads from the environment."""
    denoiser = OnnxRuntimeDenoiser(read_bundle(folder / "bundle"))
    sample, timestep, *conditions = inputs.items()
    named, when = dict(conditions), float(timestep[1][0])
    return Step(lambda: denoiser(sample[1], when, **named), str(denoiser.selection))
