"""OpenVINO int8 by NNCF's post-training quantisation."""

import shutil
from pathlib import Path

import nncf
import openvino

from ...baselines.graph_files import CONFIG, MODEL, OPENVINO, config_of
from ...baselines.inputs import calibration_inputs


def make(source: Path, folder: Path) -> None:
    """Quantise the fp32 graph; what stays in floating point is stored as float16, its default."""
    draws = calibration_inputs(config_of(source))
    model = nncf.quantize(
        openvino.convert_model(source / MODEL),
        nncf.Dataset(draws),
        subset_size=len(draws),
        preset=nncf.QuantizationPreset.PERFORMANCE,
    )
    openvino.save_model(model, folder / OPENVINO)
    shutil.copy(source / CONFIG, folder)
