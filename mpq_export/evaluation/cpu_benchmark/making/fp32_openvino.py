"""OpenVINO's own file of the full-precision model."""

import shutil
from pathlib import Path

import openvino

from ...baselines.graph_files import CONFIG, MODEL, OPENVINO


def make(source: Path, folder: Path) -> None:
    """Convert the fp32 graph, weights kept in float32."""
    model = openvino.convert_model(source / MODEL)
    openvino.save_model(model, folder / OPENVINO, compress_to_fp16=False)
    shutil.copy(source / CONFIG, folder)
