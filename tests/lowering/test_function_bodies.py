"""The function bodies are the contract in standard operators: exact wherever they run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_case, layer_cases
from onnx.reference import ReferenceEvaluator

from mpq_export.core.integer_reference import add_residual, run_layer
from mpq_export.core.planes import MAX_COLUMNS
from mpq_export.lowering.function_bodies import function_bodies
from mpq_export.lowering.nodes import (
    CONV,
    DOMAIN,
    LINEAR,
    OPSET,
    RESIDUAL,
    make_node,
    model_from_graph,
)

from .models import (
    X_TYPES,
    case_feeds,
    case_model,
    initializers,
    packed_model,
    residual_shapes,
    run_in_onnxruntime,
    with_bodies,
)

ADDED_TO = ("linear_3d", "conv_batch", "linear_float16", "conv_float16")
every_case = pytest.mark.parametrize("case", layer_cases(), ids=str)


def is_exactly(y: np.ndarray, expected: np.ndarray) -> None:
    """Assert equal type, shape and values."""
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@every_case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_golden_in_the_reference_evaluator(case: LayerCase):
    evaluator = ReferenceEvaluator(with_bodies(case_model(case)))
    is_exactly(evaluator.run(None, case_feeds(case))[0], case.y)


@pytest.mark.parametrize("case", [layer_case(name) for name in ADDED_TO], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_residuals_are_added_to_what_the_type_of_y_holds(case: LayerCase):
    for shape in residual_shapes(case.y.shape, case.layer.conv is not None):
        residual = Draws(11).bell(shape).astype(case.x.dtype)
        dims = [[None] * array.ndim for array in (case.x, case.y, residual)]
        model = packed_model(case.layer, dims[0], X_TYPES[case.x.dtype], dims[1], dims[2])
        onnx.checker.check_model(with_bodies(model), full_check=True)
        feeds = case_feeds(case) | {"residual": residual}
        expected = add_residual(case.y, residual)
        is_exactly(ReferenceEvaluator(with_bodies(model)).run(None, feeds)[0], expected)
        if case.x.dtype == np.float32:  # in float16 it skips the rounding before the addition
            is_exactly(run_in_onnxruntime(with_bodies(model), feeds), expected)


@every_case
def test_golden_in_onnxruntime(case: LayerCase):
    is_exactly(run_in_onnxruntime(with_bodies(case_model(case)), case_feeds(case)), case.y)


@pytest.mark.parametrize("name", ["linear_shifts_a5", "conv_factors_shifts"])
@pytest.mark.parametrize("step_index", range(3))
def test_the_step_is_an_input(name, step_index):
    case = layer_case(name)
    feeds = case_feeds(case) | {"step_index": np.array([step_index], np.int32)}
    y = run_in_onnxruntime(with_bodies(case_model(case)), feeds)
    is_exactly(y, run_layer(case.layer, case.x, step_index).output)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", ["linear_mixed_planes", "conv_groups_factors_shifts"])
def test_the_batch_is_open(name, batch):
    case = layer_case(name)
    x = np.concatenate([case.x] * batch)
    feeds = case_feeds(case) | {"X": x}
    y = run_in_onnxruntime(with_bodies(case_model(case)), feeds)
    is_exactly(y, run_layer(case.layer, x, case.step_index).output)


def test_the_longest_row_there_is():
    """K = 66311 of the largest numbers: sums near 2**31 in float64 matrices."""
    layer = random_layer(Draws(3), [2, 1], 8, MAX_COLUMNS)
    x = Draws(4).integers(0, 1, (1, MAX_COLUMNS)).astype(np.float32) * 400 - 100
    model = with_bodies(packed_model(layer, x.shape))
    y = run_in_onnxruntime(model, {"X": x, "step_index": np.zeros(1, np.int32)})
    is_exactly(y, run_layer(layer, x, 0).output)


def test_one_body_serves_every_node():
    """Layers of different geometry, bits and plane counts in one model, with one body each."""
    cases = [layer_case(name) for name in ("conv_stride", "conv_depthwise", "conv_mixed_planes")]
    cases += [layer_case(name) for name in ("linear_p1_a2", "linear_shifts_a5")]
    value = onnx.helper.make_tensor_value_info
    nodes, tensors, inputs, outputs = [], {}, [], []
    for index, case in enumerate(cases):
        node, own = make_node(f"n{index}", case.layer, f"X{index}", "step_index", f"Y{index}")
        nodes.append(node)
        tensors |= own
        inputs.append(value(f"X{index}", onnx.TensorProto.FLOAT, case.x.shape))
        outputs.append(value(f"Y{index}", onnx.TensorProto.FLOAT, case.expected.output.shape))
    inputs.append(value("step_index", onnx.TensorProto.INT32, [1]))
    graph = onnx.helper.make_graph(
        nodes, "several", inputs, outputs, initializer=initializers(tensors)
    )
    model = with_bodies(model_from_graph(graph))
    assert len(model.functions) == 2
    onnx.checker.check_model(model, full_check=True)
    feeds = {f"X{i}": case.x for i, case in enumerate(cases)}
    feeds["step_index"] = np.zeros(1, np.int32)
    results = ReferenceEvaluator(model).run(None, feeds)
    for case, y in zip(cases, results, strict=True):
        is_exactly(y, run_layer(case.layer, case.x, 0).output)


def test_bodies_use_standard_operators_alone():
    bodies = function_bodies()
    assert [(body.domain, body.name, body.overload) for body in bodies] == [
        (DOMAIN, LINEAR, ""),
        (DOMAIN, CONV, ""),
        (DOMAIN, LINEAR, RESIDUAL),
        (DOMAIN, CONV, RESIDUAL),
    ]
    for body in bodies:
        assert {entry.domain: entry.version for entry in body.opset_import} == {"": OPSET}
        assert {node.domain for node in body.node} == {""}
        assert "MatMulInteger" not in {node.op_type for node in body.node}
