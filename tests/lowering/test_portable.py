"""The portable form: exact on every golden case, and nothing of a model is lost."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_case, layer_cases
from onnx import TensorProto, helper, numpy_helper

from mpq_export.core.integer_reference import run_layer
from mpq_export.core.planes import MAX_COLUMNS
from mpq_export.lowering.nodes import CONV, LINEAR, make_node, model_from_graph
from mpq_export.lowering.portable import WeightType, layer_input

from .models import (
    case_feeds,
    case_model,
    initializers,
    packed_model,
    portable,
    run_in_onnxruntime,
)

FLOAT_CASES = [case for case in layer_cases() if case.x.dtype == np.float32]
HALF_CASES = [case for case in layer_cases() if case.x.dtype == np.float16]
every_type = pytest.mark.parametrize("weight_type", WeightType)


@every_type
@pytest.mark.parametrize("case", FLOAT_CASES, ids=str)
def test_golden(case: LayerCase, weight_type: WeightType):
    model = portable(case_model(case), weight_type)
    onnx.checker.check_model(model, full_check=True)
    y = run_in_onnxruntime(model, case_feeds(case), exact_int8=weight_type is WeightType.INT8)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, case.expected.output)


@every_type
@pytest.mark.parametrize("case", HALF_CASES, ids=str)
def test_float16_is_refused_rather_than_wrong(case: LayerCase, weight_type: WeightType):
    """The portable form takes float32; our denoisers never feed anything else."""
    model = portable(case_model(case), weight_type)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="Type Error"):
        run_in_onnxruntime(model, case_feeds(case))


@every_type
@pytest.mark.parametrize("name", ["linear_shifts_a5", "linear_p7_a8", "conv_factors_shifts"])
@pytest.mark.parametrize("step_index", range(3))
def test_the_step_is_an_input(name, step_index, weight_type):
    case = layer_case(name)
    feeds = case_feeds(case) | {"step_index": np.array([step_index], np.int32)}
    y = run_in_onnxruntime(portable(case_model(case), weight_type), feeds, exact_int8=True)
    np.testing.assert_array_equal(y, run_layer(case.layer, case.x, step_index).output)


@every_type
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", ["linear_mixed_planes", "conv_groups_factors_shifts"])
def test_the_batch_is_open(name, batch, weight_type):
    case = layer_case(name)
    x = np.concatenate([case.x] * batch)
    model = portable(case_model(case), weight_type)
    y = run_in_onnxruntime(model, case_feeds(case) | {"X": x}, exact_int8=True)
    np.testing.assert_array_equal(y, run_layer(case.layer, x, case.step_index).output)


@every_type
@pytest.mark.parametrize("zero_point", [0, 255])
def test_the_longest_row_there_is(zero_point, weight_type):
    """K = 66311 of the largest numbers: unsigned products leave int32 before they are corrected."""
    layer = random_layer(Draws(3), [2, 1], 8, MAX_COLUMNS)
    layer.act_zero_point[:] = zero_point
    x = np.full((2, MAX_COLUMNS), 1e9 if zero_point == 0 else -1e9, np.float32)
    x[1, ::3] = 0
    model = portable(packed_model(layer, x.shape), weight_type)
    feeds = {"X": x, "step_index": np.zeros(1, np.int32)}
    y = run_in_onnxruntime(model, feeds, exact_int8=True)
    np.testing.assert_array_equal(y, run_layer(layer, x, 0).output)


# --- how weights are stored -------------------------------------------------------------------


def weight_dtype(name: str, weight_type: WeightType) -> np.dtype:
    """The type in which a golden case's weights are handed to MatMulInteger."""
    model = portable(case_model(layer_case(name)), weight_type)
    (product,) = (node for node in model.graph.node if node.op_type == "MatMulInteger")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return tensors[product.input[1]].dtype


@pytest.mark.parametrize(
    ("name", "exceeds_127"),
    [
        ("linear_p3_a4", False),  # 15
        ("linear_p6_a7", False),  # 127
        ("linear_p7_a8", True),  # 255
        ("linear_shifts_a2", True),  # 3 << 6
        ("linear_shifts_a7", True),  # 127 << 1
        ("linear_factors_shifts", True),  # 15 << 4
        ("conv_p1_a2", False),
        ("conv_p8_a8", True),
    ],
)
def test_uint8_weights_only_where_activations_exceed_127(name, exceeds_127):
    assert weight_dtype(name, WeightType.INT8) == np.int8
    assert weight_dtype(name, WeightType.PORTABLE) == (np.uint8 if exceeds_127 else np.int8)


# --- whole graphs -----------------------------------------------------------------------------


def graph_of_two() -> onnx.ModelProto:
    """conv -> Mul by an initializer -> conv, and an Identity of an initializer as an output."""
    first, second = layer_case("conv_3x3").layer, layer_case("conv_1x1_stride").layer
    second = random_layer(Draws(5), [2, 3], 8, 4, second.conv)
    nodes, tensors = [], {}
    for name, layer, x, y in (("a", first, "X", "a.y"), ("b", second, "scaled", "Y")):
        node, own = make_node(name, layer, x, "step_index", y)
        nodes.append(node)
        tensors |= own
    nodes.insert(1, helper.make_node("Mul", ["a.y", "gain"], ["scaled"], name="gain_up"))
    nodes.append(helper.make_node("Identity", ["gain"], ["gain_out"], name="show"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two",
        [
            value("X", TensorProto.FLOAT, ["n", 5, 5, 6]),
            value("step_index", TensorProto.INT32, [1]),
        ],
        [value("Y", TensorProto.FLOAT, ["n", 2, 3, 2]), value("gain_out", TensorProto.FLOAT, [1])],
        initializer=[*initializers(tensors), numpy_helper.from_array(np.float32([0.01]), "gain")],
    )
    return model_from_graph(graph)


@every_type
def test_a_graph_keeps_everything_but_its_mpq_nodes(weight_type):
    model = graph_of_two()
    before = model.SerializeToString()
    lowered = portable(model, weight_type)
    assert model.SerializeToString() == before
    onnx.checker.check_model(lowered, full_check=True)
    assert [entry.domain for entry in lowered.opset_import] == [""]
    assert not {node.op_type for node in lowered.graph.node} & {LINEAR, CONV}
    assert not lowered.functions
    for part in ("input", "output"):
        assert getattr(lowered.graph, part) == getattr(model.graph, part)
    outputs = {name for node in lowered.graph.node for name in node.output}
    assert {"a.y", "scaled", "Y", "gain_out"} <= outputs
    assert {"gain_up", "show", "a", "b"} <= {node.name for node in lowered.graph.node}


@every_type
def test_a_graph_drops_what_nobody_reads(weight_type):
    lowered = portable(graph_of_two(), weight_type)
    read = {name for node in lowered.graph.node for name in node.input}
    assert {tensor.name for tensor in lowered.graph.initializer} <= read


@every_type
def test_a_graph_gives_the_same(weight_type):
    model, x = graph_of_two(), Draws(6).bell((2, 5, 5, 6)).astype(np.float32)
    first = run_layer(layer_case("conv_3x3").layer, x, 1).output
    second = random_layer(Draws(5), [2, 3], 8, 4, layer_case("conv_1x1_stride").layer.conv)
    expected = run_layer(second, first * np.float32(0.01), 1).output
    feeds = {"X": x, "step_index": np.ones(1, np.int32)}
    y = run_in_onnxruntime(portable(model, weight_type), feeds, exact_int8=True)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", ["linear_p3_a4", "linear_factors", "conv_3x3", "conv_factors"])
def test_the_input_and_output_of_a_rewritten_layer_can_be_found(name):
    lowered = portable(case_model(layer_case(name)), WeightType.PORTABLE)
    assert layer_input(lowered, "layer") == "X"
    assert layer_input(lowered, "no such layer") is None
    (last,) = (node for node in lowered.graph.node if node.name == "layer")
    assert list(last.output) == ["Y"]
