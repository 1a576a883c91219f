"""ONNX Runtime on a graph of standard operators."""

from pathlib import Path

import onnxruntime  # noqa: F401 - importing it is no part of loading a model

from ....lowering.graph_inputs import SAMPLE
from ...baselines.inputs import Inputs
from ...baselines.sessions import open_session
from ...timing.steps import Step


def open_step(folder: Path, inputs: Inputs, threads: int) -> Step:
    """A session that knows the batch."""
    session = open_session(folder, threads, batch=len(inputs[SAMPLE]))
    taken = {value.name for value in session.get_inputs()}
    feeds = {name: value for name, value in inputs.items() if name in taken}
    return Step(lambda: session.run(None, feeds))
