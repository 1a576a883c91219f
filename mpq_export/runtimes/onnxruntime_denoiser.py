"""A bundle in ONNX Runtime, without torch.

The ``ort`` target holds packed nodes. Until a native library is registered for them they are
rewritten to the portable form when the session is made; the ``onnx`` target already is portable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..architectures import architecture_of
from ..bundle import Bundle
from ..errors import BundleError, missing_package
from ..lowering.graph import Graph
from ..lowering.graph_inputs import SAMPLE, STEP_INDEX, TIMESTEP
from ..lowering.names import Target
from ..lowering.portable import WeightType, to_portable
from ..lowering.targets import read_lowered
from ..schedulers import nearest_step
from .names import Runtime

_TARGETS = {Runtime.ORT: Target.ORT, Runtime.ORT_FUNCTIONS: Target.ORT, Runtime.ONNX: Target.ONNX}


class OnnxRuntimeDenoiser:
    """Arrays are ``numpy.ndarray``."""

    array_type: type = np.ndarray

    def __init__(self, bundle: Bundle, runtime: Runtime = Runtime.ORT) -> None:
        self.model_config = bundle.model_config
        self._timesteps = bundle.timesteps
        self.session = make_session(runnable_graph(bundle, runtime))

    def __call__(self, sample: np.ndarray, timestep: float, **conditions: np.ndarray) -> np.ndarray:
        """Predict for float32 ``[B, C, H, W]``."""
        feeds = graph_feeds(self.model_config, self._timesteps, sample, timestep, conditions)
        prediction: np.ndarray = self.session.run(None, feeds)[0]
        return prediction


def graph_feeds(
    model_config: Mapping[str, Any],
    timesteps: np.ndarray,
    sample: np.ndarray,
    timestep: float,
    conditions: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The exported graph's inputs for one denoising step.

    Raises TypeError unless exactly the model's conditions are given.
    """
    specs = {spec.name: spec for spec in architecture_of(model_config).conditions(model_config)}
    if specs.keys() != conditions.keys():
        raise TypeError(f"the model takes {sorted(specs)}, it was given {sorted(conditions)}")
    return {
        SAMPLE: np.asarray(sample, np.float32),
        TIMESTEP: np.array([timestep], np.float32),
        STEP_INDEX: np.array([nearest_step(timesteps, float(timestep))], np.int32),
        **{name: np.asarray(value, specs[name].dtype) for name, value in conditions.items()},
    }


def runnable_graph(bundle: Bundle, runtime: Runtime) -> Graph:
    """The graph that ONNX Runtime is given; tensor names are those of the lowered file."""
    graph = read_lowered(bundle.path, _TARGETS[runtime])
    return to_portable(graph, WeightType.INT8) if runtime is Runtime.ORT else graph


def make_session(graph: Graph) -> Any:
    """An ONNX Runtime session on the CPU whose integer products do not saturate.

    It reads the graph's arrays where they are, without a copy.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(
            "onnxruntime", "runtime", "Running a bundle with ONNX Runtime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # x86 without VNNI saturates uint8 x int8 products unless this asks for the exact kernel.
    options.add_session_config_entry("session.x64quantprecision", "1")
    arrays = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in graph.tensors.values()]
    options.add_external_initializers(list(graph.tensors), arrays)
    try:
        return onnxruntime.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BundleError("ONNX Runtime cannot load the model", why=str(error)) from error
