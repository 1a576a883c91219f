"""ONNX Runtime's static int8, fitted to a few drawn inputs, since only its speed is measured."""

from pathlib import Path

from ...baselines import int8_onnx
from ...baselines.graph_files import config_of
from ...baselines.inputs import calibration_inputs


def make(source: Path, folder: Path) -> None:
    """Quantise the fp32 graph."""
    int8_onnx.make(source, folder, calibration_inputs(config_of(source)))
