"""Fusing group normalisations: which are fused, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpq_export.core.planes import ContractError
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.nodes import model_from_graph
from mpq_export.lowering.norm_fusion import expanded_norm, fuse_group_norms
from mpq_export.lowering.norm_nodes import GROUP_NORM, GROUP_NORM_SILU, NORM_OPERATORS
from mpq_export.lowering.operators import register_all_schemas
from mpq_export.runtimes.onnxruntime_denoiser import make_session

from .models import initializers

CHANNELS, GROUPS, EPSILON = 12, 3, 1e-3
_SILU = (
    helper.make_node("Sigmoid", ["normal"], ["gate"], name="sigmoid"),
    helper.make_node("Mul", ["gate", "normal"], ["silu"], name="product"),
)
_ANOTHER = helper.make_node("Neg", ["normal"], ["negative"], name="another")


def model(*after: onnx.NodeProto, outputs: tuple[str, ...] = ("Y",)) -> Graph:
    """``X [N, C, H, W]`` through a group normalisation called ``norm``, and what comes after it."""
    rng = np.random.default_rng(0)
    scale, bias = rng.standard_normal((2, CHANNELS)).astype(np.float32)
    norm = helper.make_node(
        "GroupNormalization",
        ["X", "scale", "bias"],
        ["normal" if after else outputs[0]],
        name="norm",
        num_groups=GROUPS,
        epsilon=EPSILON,
    )
    dims = ["N", CHANNELS, "H", "W"]
    graph = helper.make_graph(
        [norm, *after],
        "norms",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in outputs],
        initializer=initializers({"scale": scale, "bias": bias}),
    )
    return Graph.of(model_from_graph(graph, with_mpq=False))


def silu_to(name: str) -> tuple[onnx.NodeProto, ...]:
    """The two nodes of a SiLU that gives ``name``."""
    sigmoid, product = onnx.NodeProto(), onnx.NodeProto()
    sigmoid.CopyFrom(_SILU[0])
    product.CopyFrom(_SILU[1])
    product.output[0] = name
    return sigmoid, product


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.model.graph.node]


def test_a_norm_and_its_silu_are_one_node():
    fused = fuse_group_norms(model(*silu_to("Y")))
    assert operators(fused) == [GROUP_NORM_SILU]
    assert list(fused.model.graph.node[0].output) == ["Y"]


def test_a_norm_alone_is_one_node():
    assert operators(fuse_group_norms(model())) == [GROUP_NORM]


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        ((*silu_to("Y"), _ANOTHER), ("Y", "negative")),
        (silu_to("Y"), ("Y", "normal")),
        (silu_to("Y"), ("Y", "gate")),
    ],
    ids=["another reader", "the norm is an output", "the gate is an output"],
)
def test_a_silu_stays_where_something_else_reads_between(after, outputs):
    graph = fuse_group_norms(model(*after, outputs=outputs))
    assert operators(graph)[:3] == [GROUP_NORM, "Sigmoid", "Mul"]


def test_scale_and_bias_must_be_constants():
    graph = model()
    computed = helper.make_node("Neg", ["scale"], ["negative_scale"], name="computed")
    norm = onnx.NodeProto()
    norm.CopyFrom(graph.model.graph.node[0])
    norm.input[1] = "negative_scale"
    graph = graph.with_nodes([computed, norm], graph.values(), with_mpq=False)
    assert operators(fuse_group_norms(graph)) == ["Neg", "GroupNormalization"]


@pytest.mark.parametrize("after", [(), silu_to("Y")], ids=["plain", "silu"])
def test_expanding_gives_back_what_was_fused(after):
    graph = model(*after)
    fused = fuse_group_norms(graph)
    nodes = [new for node in fused.model.graph.node for new in expanded_norm(node)]
    expanded = graph.with_nodes(nodes, fused.values(), with_mpq=False)
    assert operators(expanded) == operators(graph)
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(expanded, x), run(graph, x))


@pytest.mark.parametrize(
    "break_node",
    [
        lambda node: node.attribute.append(helper.make_attribute("name", "evil")),
        lambda node: node.attribute.append(helper.make_attribute("inputs", [1])),
        lambda node: node.ClearField("attribute"),
        lambda node: node.ClearField("output"),
        lambda node: node.input.pop(),
    ],
    ids=["name", "inputs", "no attributes", "no output", "an input less"],
)
def test_a_norm_that_its_schema_does_not_allow_is_refused(break_node):
    (node,) = fuse_group_norms(model()).model.graph.node
    break_node(node)
    with pytest.raises(ContractError):
        list(expanded_norm(node))


@pytest.mark.parametrize("after", [(), silu_to("Y")], ids=["plain", "silu"])
def test_bodies_and_standard_operators_agree(after):
    register_all_schemas()
    graph = model(*after)
    fused = fuse_group_norms(graph)
    fused.model.functions.extend(operator.function() for operator in NORM_OPERATORS)
    onnx.checker.check_model(fused.structure(), full_check=True)
    x = np.random.default_rng(2).standard_normal((2, CHANNELS, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(fused, x), run(graph, x), rtol=1e-6, atol=1e-6)


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return make_session(graph).run(["Y"], {"X": x})[0]
