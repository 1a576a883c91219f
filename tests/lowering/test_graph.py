"""Models beside their large tensors."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpq_export.lowering.graph import SMALL_BYTES, Graph
from mpq_export.lowering.nodes import model_from_graph

LARGE = np.arange(SMALL_BYTES, dtype=np.float32).reshape(-1, 4)
SMALL = np.float32([0.5, 1, 2, 4])


@pytest.fixture
def graph() -> Graph:
    """``Y = X + large * small``."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["large", "small"], ["product"], name="mul"),
        helper.make_node("Add", ["X", "product"], ["Y"], name="add"),
    ]
    shape = list(LARGE.shape)
    onnx_graph = helper.make_graph(
        nodes, "g", [value("X", TensorProto.FLOAT, shape)], [value("Y", TensorProto.FLOAT, shape)]
    )
    return Graph.of(model_from_graph(onnx_graph), {"large": LARGE, "small": SMALL})


def test_large_tensors_leave_the_model_and_small_ones_stay(graph: Graph) -> None:
    assert list(graph.tensors) == ["large"]
    assert graph.tensors["large"] is LARGE, "no copy is made"
    assert graph.model.ByteSize() < LARGE.nbytes
    outside = [t for t in graph.model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert [tensor.name for tensor in outside] == ["large"]
    assert np.array_equal(graph.values()["small"], SMALL)


def test_inline_and_back_is_the_same(graph: Graph) -> None:
    inline = graph.inline()
    onnx.checker.check_model(inline, full_check=True)
    again = Graph.of(inline)
    assert again.model == graph.model
    assert np.array_equal(again.tensors["large"], LARGE)


def test_the_structure_is_checked_without_data(graph: Graph) -> None:
    structure = graph.structure()
    assert structure.ByteSize() < LARGE.nbytes
    onnx.checker.check_model(structure, full_check=True)
    assert {value.name for value in structure.graph.input} == {"X", "large"}


def test_other_nodes_keep_inputs_and_outputs(graph: Graph) -> None:
    nodes = [helper.make_node("Add", ["X", "large"], ["Y"], name="sum")]
    other = graph.with_nodes(nodes, {"large": LARGE}, with_mpq=False)
    assert [node.name for node in other.model.graph.node] == ["sum"]
    assert other.model.graph.input == graph.model.graph.input
    assert set(other.values()) == {"large"}
