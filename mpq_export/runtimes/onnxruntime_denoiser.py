"""A bundle in ONNX Runtime, without torch.

The ``ort`` target holds packed nodes and fused attention. The native library runs them as they
are; without it they are rewritten when the session is made, layers to the portable form, attention
to ONNX Runtime's own operator. The ``onnx`` target already is portable.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..architectures import architecture_of
from ..bundle import Bundle
from ..core.planes import ContractError
from ..errors import BundleError, RuntimeUnavailable, missing_package
from ..lowering.graph import Graph
from ..lowering.graph_inputs import PREDICTION, SAMPLE, STEP_INDEX, TIMESTEP
from ..lowering.names import Target
from ..lowering.nodes import DOMAIN, all_nodes
from ..lowering.operators import require_allowed
from ..lowering.portable import WeightType, to_portable
from ..lowering.provenance import require_lowered_from
from ..lowering.targets import read_lowered
from .graph_feeds import graph_feeds
from .multi_head_attention import with_multi_head_attention
from .names import Runtime
from .native_library import native_library
from .selection import select

_TARGETS = {
    Runtime.ORT: Target.ORT,
    Runtime.ORT_PORTABLE: Target.ORT,
    Runtime.ORT_FUNCTIONS: Target.ORT,
    Runtime.ONNX: Target.ONNX,
}
ONNX_RUNTIMES = tuple(_TARGETS)
"""What ONNX Runtime runs; all else is no runtime of this file's."""


class OnnxRuntimeDenoiser:
    """Arrays are ``numpy.ndarray``.

    Attributes:
        selection: which runtime really runs, and why.
        session: the ``onnxruntime.InferenceSession``.
    """

    array_type: type = np.ndarray

    def __init__(self, bundle: Bundle, runtime: Runtime = Runtime.ORT) -> None:
        self.model_config = bundle.model_config
        self._timesteps = bundle.timesteps
        self.selection = select(runtime)
        self.session = make_session(runnable_graph(bundle, self.selection.runs))
        _require_signature(self.session, bundle)

    def __call__(self, sample: np.ndarray, timestep: float, **conditions: np.ndarray) -> np.ndarray:
        """Predict for float32 ``[B, C, H, W]``."""
        return run(
            self.session,
            graph_feeds(self.model_config, self._timesteps, sample, timestep, conditions),
        )


def _require_signature(session: Any, bundle: Bundle) -> None:
    """Refuse a graph that takes or gives other tensors than its bundle's model."""
    conditions = architecture_of(bundle.model_config).conditions(bundle.model_config)
    expected = {SAMPLE, TIMESTEP, STEP_INDEX, *(spec.name for spec in conditions)}
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if inputs != expected or PREDICTION not in outputs:
        raise BundleError(
            "The lowered model is not of the bundle's model class",
            where=bundle.path,
            why=f"It takes {sorted(inputs)} and gives {sorted(outputs)}",
            fix="Lower the bundle again",
        )


def run(session: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The prediction of one call; what the graph itself cannot do is the bundle's fault."""
    try:
        prediction: np.ndarray = session.run([PREDICTION], feeds)[0]
    except Exception as error:  # ONNX Runtime raises types of its own, and ValueError
        raise BundleError("ONNX Runtime cannot run the model", why=str(error)) from error
    return prediction


def runnable_graph(bundle: Bundle, runtime: Runtime) -> Graph:
    """The graph that ONNX Runtime is given; tensor names are those of the lowered file."""
    runs, target = select(runtime).runs, _TARGETS[runtime]
    graph = read_lowered(bundle.path, target)
    try:
        require_lowered_from(graph, bundle.layers, bundle.features)
        if runs is Runtime.ORT_PORTABLE:
            return with_multi_head_attention(to_portable(graph, WeightType.INT8))
        for node in graph.model.graph.node:
            require_allowed(node)
        if runs is Runtime.ORT_FUNCTIONS and not graph.model.functions:
            raise ContractError("it has no function bodies")
        if runs is Runtime.ORT:
            # The native library is registered for exactly the nodes that have no body.
            del graph.model.functions[:]
    except ContractError as error:
        raise BundleError(
            "The lowered model does not belong to its bundle",
            where=bundle.path / "onnx" / target.value,
            why=str(error),
            fix=f"Lower it again: mpq-export --ckpt {bundle.path} --target {target.value}",
        ) from error
    return graph


def _threads() -> int:
    """What OMP_NUM_THREADS says, which ONNX Runtime alone would not heed; 0 is its own choice."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def make_session(graph: Graph, profile: Path | None = None) -> Any:
    """An ONNX Runtime session on the CPU whose integer products do not saturate.

    It reads the graph's arrays where they are, without a copy. Nodes of domain ``mpq`` without
    function bodies are run by the native library; raises RuntimeUnavailable where there is none.
    With ``profile`` it times every node, for a file whose name begins so, which
    ``end_profiling`` writes.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(
            "onnxruntime", "runtime", "Running a bundle with ONNX Runtime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and told by our own errors
    options.intra_op_num_threads = _threads()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    # x86 without VNNI saturates uint8 x int8 products unless this asks for the exact kernel.
    options.add_session_config_entry("session.x64quantprecision", "1")
    ours = any(node.domain == DOMAIN for node in all_nodes(graph.model.graph.node))
    if ours and not graph.model.functions:
        _register_native_library(options)
    arrays = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in graph.tensors.values()]
    options.add_external_initializers(list(graph.tensors), arrays)
    try:
        return onnxruntime.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BundleError("ONNX Runtime cannot load the model", why=str(error)) from error


def _register_native_library(options: Any) -> None:
    library = native_library()
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime raises types of its own
        raise RuntimeUnavailable(
            "ONNX Runtime cannot load the native library",
            where=library,
            why=str(error),
            fix="Install mpq-export again on this machine, or choose --runtime ort-portable",
        ) from error
