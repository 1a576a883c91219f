"""A compiled OpenVINO model of fixed shapes."""

from pathlib import Path

import openvino

from ...baselines.graph_files import OPENVINO
from ...baselines.inputs import Inputs
from ...timing.steps import Step


def opened(folder: Path, inputs: Inputs, threads: int, **settings: str) -> Step:
    """Compile for one request at a time."""
    core = openvino.Core()
    model = core.read_model(folder / OPENVINO)
    model.reshape({name: value.shape for name, value in inputs.items()})
    request = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            **settings,
        },
    ).create_infer_request()
    return Step(lambda: request.infer(inputs))
