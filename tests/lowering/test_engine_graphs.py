"""What TensorRT may be given; the catalogue of attacks holds what it may not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from fixtures import random_layer
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import TensorProto, helper, numpy_helper

from mpq_export.core.planes import ContractError
from mpq_export.lowering.engine_graphs import (
    constant_bytes,
    require_layers,
    require_plain_form,
    require_sizes,
)
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.lowering.nodes import model_from_graph
from mpq_export.lowering.tensorrt_form import to_tensorrt, to_tensorrt_int8

from .models import case_model

CASES = [case for case in layer_cases() if case.x.dtype == np.float32]
"""A graph's own inputs are never float16."""
LOWER = {Target.TRT: to_tensorrt, Target.TRT_INT8: to_tensorrt_int8}


def lowered(case: LayerCase, target: Target) -> Graph:
    return LOWER[target](Graph.of(case_model(case)))


@pytest.mark.parametrize("target", ENGINE_TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_lowering_writes_passes(case: LayerCase, target: Target) -> None:
    graph = lowered(case, target)
    require_plain_form(graph.inline(), target)
    require_layers(graph, {"layer": case.layer}, target)
    require_sizes(graph, {"batch": 2})
    assert constant_bytes(graph) == sum(value.nbytes for value in graph.values().values())


@pytest.mark.parametrize("target", ENGINE_TARGETS)
def test_layers_of_another_bundle_are_refused(target: Target) -> None:
    case = layer_case("linear_p3_a4")
    graph = lowered(case, target)
    rows, columns = case.layer.weight.rows, case.layer.weight.columns
    other = random_layer([3] * rows, columns, 4)
    with pytest.raises(ContractError, match=r"layer"):
        require_layers(graph, {"layer": other}, target)
    with pytest.raises(ContractError, match="another"):
        require_layers(graph, {"layer": case.layer, "another": other}, target)
    if target is Target.TRT:
        with pytest.raises(ContractError, match="of no layer"):
            require_layers(graph, {}, target)


def shaped(rank: int, nodes: Sequence[onnx.NodeProto], **constants: np.ndarray) -> Graph:
    """A graph from x ``[batch, 6]`` to y."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "shaped",
        [value("x", TensorProto.FLOAT, ["batch", 6])],
        [value("y", TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return Graph.of(model_from_graph(graph, with_mpq=False))


def test_lengths_that_are_computed_as_scalars_are_followed() -> None:
    """As the tracer writes a product of the batch and a constant."""
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=0, end=1),
        helper.make_node("Squeeze", ["length"], ["scalar"]),
        helper.make_node("Mul", ["scalar", "two"], ["double"]),
        helper.make_node("Reshape", ["double", "flat"], ["vector"], allowzero=0),
        helper.make_node("Concat", ["vector", "three"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"], "last"),
    ]
    constants = {"two": np.array(2), "flat": np.array([-1]), "three": np.array([3])}
    require_sizes(shaped(2, nodes, **constants), {"batch": 4})


def test_sizes_are_bounded_by_the_largest_inputs_and_by_the_models_own_tensors() -> None:
    outer = [
        helper.make_node("Unsqueeze", ["x", "first"], ["rows"]),
        helper.make_node("Unsqueeze", ["x", "second"], ["columns"]),
        helper.make_node("Mul", ["rows", "columns"], ["y"], "outer"),
    ]
    axes = {"first": np.array([0]), "second": np.array([1])}
    require_sizes(shaped(3, outer, **axes), {"batch": 1000})
    with pytest.raises(ContractError, match=r"node outer: y would have [0-9]{11,} elements"):
        require_sizes(shaped(3, outer, **axes), {"batch": 10**5 * 3 + 16228})
    folded = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        helper.make_node("Add", ["x", "table"], ["sum"]),
        helper.make_node("Concat", ["sum", "zeros"], ["y"], axis=0),
    ]
    small, table = np.zeros((1, 6), np.float32), np.zeros((1 << 20, 6), np.float32)
    shape = np.array([900_000, 6])
    with pytest.raises(ContractError, match="node zeros: zeros would have 5400000 elements"):
        require_sizes(shaped(2, folded, shape=shape, table=small), {"batch": 1 << 20})
    require_sizes(shaped(2, folded, shape=shape, table=table), {"batch": 1 << 20})
