"""Graphs with float16 activations: exact nodes, stated float32 parts, overflow that is found."""

from __future__ import annotations

import fixtures
import numpy as np
import onnx
import pytest
from golden.reader import LayerCase, layer_cases
from onnx import TensorProto, helper

from mpq_export.bundle import read_bundle
from mpq_export.core.integer_reference import run_layer
from mpq_export.errors import BundleError
from mpq_export.evaluation.check import check_bundle
from mpq_export.export import export_bundle
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.half_precision import is_half, to_half
from mpq_export.lowering.names import Target
from mpq_export.lowering.nodes import is_mpq, make_node, model_from_graph
from mpq_export.lowering.portable import WeightType, to_portable
from mpq_export.lowering.targets import read_lowered
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import make_session

CASES = [case for case in layer_cases() if case.x.ndim > 1]


def one_layer(case: LayerCase) -> Graph:
    """``sample -> Mul by 1 -> packed layer -> prediction``."""
    dims = [f"d{i}" for i in range(case.x.ndim)]
    value = helper.make_tensor_value_info
    node, tensors = make_node("layer", case.layer, "x", "step_index", "y")
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["sample", "one"], ["x"], name="before"),
            node,
            helper.make_node("Mul", ["y", "one"], ["z"], name="after"),
            helper.make_node("Add", ["z", "nothing"], ["prediction"], name="last"),
        ],
        "one",
        [value("sample", TensorProto.FLOAT, dims), value("step_index", TensorProto.INT32, [1])],
        [value("prediction", TensorProto.FLOAT, [f"y{i}" for i in range(case.x.ndim)])],
    )
    constants = {"one": np.ones((), np.float32), "nothing": np.zeros((), np.float32)}
    return Graph.of(model_from_graph(graph), tensors | constants)


@pytest.mark.parametrize("weight_type", WeightType)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_packed_node_widens_its_input_and_rounds_its_output_once(
    case: LayerCase, weight_type: WeightType
) -> None:
    with np.errstate(over="ignore"):
        half = case.x.astype(np.float16)
        expected = run_layer(case.layer, half, case.step_index).output.astype(np.float16)
    graph = to_portable(to_half(one_layer(case)), weight_type)
    onnx.checker.check_model(graph.structure(), full_check=True)
    step_index = np.array([case.step_index], np.int32)
    feeds = {"sample": case.x.astype(np.float32), "step_index": step_index}
    y = make_session(graph).run(None, feeds)[0]
    assert y.dtype == np.float32, "outputs stay float32"
    np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_what_stays_float32_stays() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["timestep", "gain"], ["embedded"], name="time"),
        helper.make_node("Add", ["sample", "embedded"], ["sum"], name="add"),
        helper.make_node("Softmax", ["sum"], ["soft"], name="soft"),
        helper.make_node("Shape", ["soft"], ["shape"], name="shape"),
        helper.make_node("Reshape", ["soft", "shape"], ["same"], name="reshape"),
        helper.make_node("Sigmoid", ["same"], ["prediction"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("sample", TensorProto.FLOAT, ["b", 4]), value("timestep", TensorProto.FLOAT, [1])],
        [value("prediction", TensorProto.FLOAT, ["b", 4])],
    )
    half = to_half(Graph.of(model_from_graph(graph), {"gain": np.ones(1, np.float32)}))
    inferred = onnx.shape_inference.infer_shapes(half.structure(), strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    assert types["embedded"] == TensorProto.FLOAT
    assert types["sum"] == types["soft"] == types["same"] == TensorProto.FLOAT16
    assert types["soft/float32"] == types["prediction"] == TensorProto.FLOAT
    assert types["shape"] == TensorProto.INT64


def test_graphs_within_nodes_are_refused() -> None:
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Identity", ["sample"], ["z"])], "i", [], [value("z", 1, ["b"])]
    )
    node = helper.make_node(
        "If", ["yes", "sample"][:1], ["y"], name="branch", then_branch=inner, else_branch=inner
    )
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["y"], ["prediction"])],
        "g",
        [value("sample", 1, ["b"]), value("yes", TensorProto.BOOL, [])],
        [value("prediction", 1, ["b"])],
    )
    with pytest.raises(BundleError, match=r"cannot be made float16 \(branch\)"):
        to_half(Graph.of(model_from_graph(graph)))


@pytest.fixture(scope="module")
def half_bundle(bundle_folder, tmp_path_factory):
    """The tiny model lowered to both targets in float16."""
    bundle = read_bundle(bundle_folder)
    out = tmp_path_factory.mktemp("half") / "bundle"
    return export_bundle(bundle, tuple(Target), out, fixtures.SilentProgress(), float16=True)


@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.ONNX])
def test_every_node_of_a_whole_model_is_exact(half_bundle, runtime):
    report = check_bundle(half_bundle, runtime, None, 2, 1, 0, fixtures.SilentProgress())
    assert report.passed
    assert report.against_torch.relative < 0.6, "chaotic, but not another model"
    graph = read_lowered(half_bundle.path, Target.ORT)
    assert is_half(graph)
    packed = [node for node in graph.model.graph.node if is_mpq(node)]
    half = {n.output[0] for n in graph.model.graph.node if n.op_type == "Cast"}
    assert len(packed) == len(half_bundle.layers)
    assert half


def test_the_timestep_is_embedded_in_float32(half_bundle):
    """Sines of hundreds are wrong in float16; only their projections meet the sample."""
    model = read_lowered(half_bundle.path, Target.ORT).structure()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    waves = [node for node in inferred.graph.node if node.op_type in ("Sin", "Cos")]
    assert len(waves) == 2
    for node in waves:
        assert types[node.output[0]] == TensorProto.FLOAT
    convolutions = [n for n in inferred.graph.node if n.op_type == "MPQConv"]
    assert {types[n.input[0]] for n in convolutions} == {TensorProto.FLOAT16}


def test_bodies_of_half_graphs_are_not_compared(half_bundle):
    with pytest.raises(BundleError, match="cannot be checked node by node"):
        check_bundle(half_bundle, Runtime.ORT_FUNCTIONS, None, 1, 1, 0, fixtures.SilentProgress())


def test_overflow_is_found_and_named(pipeline_folder, tmp_path):
    """A layer whose outputs exceed 65504 is infinite in float16, and the check says where."""
    folder = fixtures.quantized_bundle(pipeline_folder, tmp_path / "b", "rtn", "w4a8")
    bundle = read_bundle(folder)
    bundle.layers["conv_in"].bias[:] = 1e6
    exported = {}
    for float16 in (False, True):
        out = tmp_path / str(float16)
        exported[float16] = export_bundle(
            bundle, (Target.ORT,), out, fixtures.SilentProgress(), float16
        )
    plain, half = (
        check_bundle(exported[f], Runtime.ORT, None, 1, 1, 0, fixtures.SilentProgress())
        for f in (False, True)
    )
    assert plain.passed
    assert not half.passed
    assert half.exact == len(half.nodes), "infinite as the contract says: equal, yet refused"
    assert half.nodes[0].name == "conv_in"
    assert half.nodes[0].not_finite == 1
