"""OpenVINO on an int8 model; what is not int8 runs in the precision it chooses."""

from pathlib import Path

from ...baselines.inputs import Inputs
from ...timing.steps import Step
from .openvino_model import opened


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """With its own defaults."""
    return opened(folder, inputs, threads)
