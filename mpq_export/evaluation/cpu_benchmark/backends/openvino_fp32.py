"""OpenVINO with float32 for all that is not int8, where it would choose bfloat16 on processors that
have it."""

from pathlib import Path

from ...baselines.inputs import Inputs
from ...timing.steps import Step
from .openvino_model import opened


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """Nothing in bfloat16."""
    return opened(folder, inputs, threads, INFERENCE_PRECISION_HINT="f32")
