"""The packed model, as users run it."""

from pathlib import Path

import onnx  # noqa: F401 - what the denoiser imports is no part of its loading
import onnxruntime  # noqa: F401

from ....bundle import read_bundle
from ....runtimes.denoiser import open_denoiser
from ....runtimes.names import Runtime
from ..inputs import Inputs
from . import Step


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """``open_denoiser``; it takes its threads from the environment."""
    denoiser = open_denoiser(read_bundle(folder / "bundle"), Runtime.ORT)
    sample, timestep, *conditions = inputs.items()
    named, when = dict(conditions), float(timestep[1][0])
    return Step(lambda: denoiser(sample[1], when, **named), "portable rewrite")
