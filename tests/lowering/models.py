"""Models of one packed layer, and the ways to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from golden.reader import LayerCase
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpq_export.core.integer_reference import PackedLayer
from mpq_export.lowering.function_bodies import function_bodies
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.nodes import (
    is_mpq,
    make_node,
    model_from_graph,
    register_schemas,
    with_residual,
)
from mpq_export.lowering.portable import WeightType, to_portable
from mpq_export.lowering.residual_fusion import expanded_residual

Dims = Sequence[int | str | None] | None
X_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def packed_model(
    layer: PackedLayer,
    x_dims: Dims,
    x_type: int = TensorProto.FLOAT,
    y_dims: Dims = None,
    residual_dims: Dims | tuple[()] = (),
) -> onnx.ModelProto:
    """``X, step_index -> Y`` through one MPQ node called ``layer``, without its function body.

    With ``residual_dims``, which may be None, ``residual`` is an input, too.
    """
    register_schemas()
    node, tensors = make_node("layer", layer, "X", "step_index", "Y")
    more = []
    if residual_dims != ():
        node = with_residual(node, "residual", "Y")
        more.append(helper.make_tensor_value_info("residual", x_type, residual_dims))
    graph = helper.make_graph(
        [node],
        "one_layer",
        [
            helper.make_tensor_value_info("X", x_type, x_dims),
            helper.make_tensor_value_info("step_index", TensorProto.INT32, [1]),
            *more,
        ],
        [helper.make_tensor_value_info("Y", x_type, y_dims)],
        initializer=initializers(tensors),
    )
    return model_from_graph(graph)


def without_residuals(graph: Graph) -> Graph:
    """The graph with every residual added behind its node again."""
    nodes = [
        part
        for node in graph.model.graph.node
        for part in (expanded_residual(node) if is_mpq(node) else [node])
    ]
    return graph.with_nodes(nodes, graph.values(), with_mpq=True)


def residual_shapes(y: Sequence[int], is_conv: bool) -> list[tuple[int, ...]]:
    """The shapes of what can be added to an output of that shape."""
    forms = [tuple(y)]
    if is_conv:
        forms += [(*y[:2], 1, 1), (1, y[1], 1, 1)]
    return forms


def initializers(tensors: Mapping[str, NDArray]) -> list[TensorProto]:
    """Named arrays as a graph holds them."""
    return [numpy_helper.from_array(value, name) for name, value in tensors.items()]


def portable(model: onnx.ModelProto, weight_type: WeightType) -> onnx.ModelProto:
    """The portable form of a model, as one model again."""
    return to_portable(Graph.of(model), weight_type).inline()


def case_model(case: LayerCase) -> onnx.ModelProto:
    """The packed model of a golden case, batch left open."""
    fixed = case.x.shape[1:] if case.x.ndim > 1 else case.x.shape
    dims = [*(["batch"] if case.x.ndim > 1 else []), *fixed]
    rank = case.expected.output.ndim
    return packed_model(case.layer, dims, X_TYPES[case.x.dtype], [f"y{i}" for i in range(rank)])


def case_feeds(case: LayerCase) -> dict[str, NDArray]:
    """The inputs of a golden case."""
    return {"X": case.x, "step_index": np.array([case.step_index], np.int32)}


def with_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its nodes: onnx's evaluator knows of no overloads."""
    used = {(node.op_type, node.overload) for node in model.graph.node}
    bodies = [body for body in function_bodies() if (body.name, body.overload) in used]
    return model_from_graph(model.graph, bodies)


def run_in_onnxruntime(
    model: onnx.ModelProto, feeds: dict[str, NDArray], *, exact_int8: bool = False
) -> NDArray:
    """The model's only output; ``exact_int8`` sets ``session.x64quantprecision``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if exact_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]
