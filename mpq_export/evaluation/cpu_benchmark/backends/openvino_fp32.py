"""OpenVINO in float32, where it would choose bfloat16 on processors that have it."""

from pathlib import Path

from ..inputs import Inputs
from . import Step
from .openvino_model import opened


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """All in float32."""
    return opened(folder, inputs, threads, INFERENCE_PRECISION_HINT="f32")
