"""The ``trt-int8`` target: symmetric INT8 without a plugin that gives the contract's outputs."""

from __future__ import annotations

from pathlib import Path

import fixtures
import numpy as np
import onnx
import pytest
from golden.reader import LayerCase, layer_cases
from onnx import helper

from mpq_export.bundle import read_bundle
from mpq_export.core.channel_parts import parts_by_module
from mpq_export.core.integer_reference import run_layer
from mpq_export.evaluation.layer_fidelity import LayerUse, compare_layer
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.kernel_nodes import INPUTS, is_kernel_node
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.lowering.plain_int8 import exact_in_float32, plain_int8_nodes
from mpq_export.lowering.targets import read_lowered
from mpq_export.lowering.tensorrt_form import TENSORRT_OPSET, to_tensorrt_int8
from mpq_export.runtimes.onnxruntime_denoiser import make_session

from .models import case_feeds, case_model, run_in_onnxruntime

FLOAT_CASES = [case for case in layer_cases() if case.x.dtype == np.float32]
HALF_CASES = [
    case
    for case in layer_cases()
    if case.x.dtype == np.float16 and np.isfinite(case.x).all() and exact_in_float32(case.layer)
]
FINITE_CASES = [case for case in FLOAT_CASES if np.isfinite(case.x).all()]


def lowered(case: LayerCase) -> onnx.ModelProto:
    return to_tensorrt_int8(Graph.of(case_model(case))).inline()


@pytest.mark.parametrize("case", FINITE_CASES, ids=str)
def test_golden(case: LayerCase) -> None:
    model = lowered(case)
    onnx.checker.check_model(model, full_check=True)
    if not exact_in_float32(case.layer):
        pytest.skip("its sums leave float32's integers")
    y = run_in_onnxruntime(model, case_feeds(case), exact_int8=True)
    np.testing.assert_array_equal(y, case.expected.output)


def test_most_golden_cases_are_compared() -> None:
    assert sum(exact_in_float32(case.layer) for case in FINITE_CASES) > 0.9 * len(FINITE_CASES)


@pytest.mark.parametrize("case", FINITE_CASES[:6], ids=str)
def test_the_step_is_an_input(case: LayerCase) -> None:
    for step in range(len(case.layer.act_scale)):
        feeds = case_feeds(case) | {"step_index": np.array([step], np.int32)}
        y = run_in_onnxruntime(lowered(case), feeds, exact_int8=True)
        np.testing.assert_array_equal(y, run_layer(case.layer, case.x, step).output)


@pytest.mark.parametrize("case", FLOAT_CASES, ids=str)
def test_quantisation_is_symmetric_with_constant_scales(case: LayerCase) -> None:
    """All that TensorRT's parser takes of it: int8, zero points 0, initializers for both."""
    graph = to_tensorrt_int8(Graph.of(case_model(case)))
    values = graph.values()
    quantizing = [n for n in graph.model.graph.node if n.op_type.endswith("eLinear")]
    assert len(quantizing) == 3
    for node in quantizing:
        assert values[node.input[1]] == 1
        assert values[node.input[2]].dtype == np.int8
        assert values[node.input[2]] == 0
    assert {opset.domain: opset.version for opset in graph.model.opset_import} == {
        "": TENSORRT_OPSET
    }


@pytest.fixture(scope="module")
def split_folder(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which layers are sums of parts, each of some of the channels."""
    folder = tmp_path_factory.mktemp("split") / "bundle"
    return fixtures.quantized_bundle(
        pipeline_folder, folder, "rtn", targets=ENGINE_TARGETS, split_concatenations=True
    )


@pytest.mark.parametrize("source", ["lowered_folder", "split_folder"])
def test_every_node_of_a_model_equals_the_reference(
    source: str, request: pytest.FixtureRequest
) -> None:
    """In ONNX Runtime, for the inputs that it really has."""
    folder: Path = request.getfixturevalue(source)
    bundle = read_bundle(folder)
    assert bool(parts_by_module(bundle.channels)) == (source == "split_folder")
    graph = read_lowered(folder, Target.TRT_INT8)
    packed = read_lowered(folder, Target.TRT)  # tensors between the layers keep their names
    kernels = [node for node in packed.model.graph.node if is_kernel_node(node)]
    taps = {n.name: (n.input[0], n.output[0], *n.input[len(INPUTS) :]) for n in kernels}
    assert taps.keys() == bundle.layers.keys()
    probed = onnx.ModelProto()
    probed.CopyFrom(graph.model)
    names = sorted({name for tap in taps.values() for name in tap} - {"sample", "prediction"})
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = make_session(Graph(probed, graph.tensors))
    rng = np.random.default_rng(0)
    for step in range(len(bundle.timesteps)):
        feeds = {
            "sample": rng.standard_normal((2, 2, 8, 8), dtype=np.float32),
            "timestep": bundle.timesteps[step : step + 1].astype(np.float32),
            "step_index": np.array([step], np.int32),
            "class_labels": np.array([0, 3]),
        }
        wanted = [*names, "prediction"]
        values = feeds | dict(zip(wanted, session.run(wanted, feeds), strict=True))
        for name, (x, y, *residual) in taps.items():
            use = LayerUse(values[x], values[y], step, *(values[added] for added in residual))
            assert compare_layer(name, bundle.layers[name], [use]).equal, name


@pytest.mark.parametrize("case", HALF_CASES, ids=str)
def test_float16_is_widened_and_rounded_once(case: LayerCase) -> None:
    """As float16 graphs need it, which name no type of their own."""
    packed = Graph.of(case_model(case))
    (node,) = packed.model.graph.node
    nodes, values = plain_int8_nodes(node, packed.values(), half=True)
    model = packed.with_nodes(nodes, values, with_mpq=False).inline()
    y = run_in_onnxruntime(model, case_feeds(case), exact_int8=True)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, case.expected.output.astype(np.float16))
