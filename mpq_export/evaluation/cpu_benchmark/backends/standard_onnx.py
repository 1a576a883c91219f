"""ONNX Runtime on a graph of standard operators."""

from pathlib import Path

import onnxruntime

from ....conditions import BATCH
from ....lowering.graph_inputs import SAMPLE
from ...baselines.graph_files import MODEL
from ...baselines.inputs import Inputs
from ...timing.steps import Step


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """A session that knows the batch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name(BATCH, len(inputs[SAMPLE]))
    session = onnxruntime.InferenceSession(
        str(folder / MODEL), options, providers=["CPUExecutionProvider"]
    )
    taken = {value.name for value in session.get_inputs()}
    feeds = {name: value for name, value in inputs.items() if name in taken}
    return Step(lambda: session.run(None, feeds))
