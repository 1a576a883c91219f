"""Fusing layer normalisations: which are fused and which are not, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mpq_export.core.planes import ContractError
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.half_precision import to_half
from mpq_export.lowering.layer_norm_fusion import expanded_layer_norm, fuse_layer_norms
from mpq_export.lowering.layer_norm_nodes import ADA_LAYER_NORM, ADA_LAYER_NORM_OPERATOR
from mpq_export.lowering.nodes import model_from_graph
from mpq_export.lowering.operators import register_all_schemas
from mpq_export.lowering.portable import WeightType, to_portable
from mpq_export.runtimes.onnxruntime_denoiser import make_session

TOKENS, CHANNELS, EPSILON = 5, 12, 1e-3
CHAIN = ["LayerNormalization", "Mul", "Add"]


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output, **attributes)


def chain(
    norm: str = "sample ones",
    product: str = "normal scale",
    total: str = "scaled shift",
    **attributes,
) -> list[onnx.NodeProto]:
    """What the tracer writes of an adaptive layer normalisation."""
    attributes = {"axis": -1, "epsilon": EPSILON, "stash_type": 1} | attributes
    return [
        node("LayerNormalization", norm, "normal", **attributes),
        node("Mul", product, "scaled"),
        node("Add", total, "Y"),
    ]


def model(
    nodes: list[onnx.NodeProto] | None = None,
    x: tuple = ("batch", TOKENS, CHANNELS),
    row: tuple = ("batch", 1, CHANNELS),
    outputs: tuple[str, ...] = ("Y",),
    ones: float = 1,
) -> Graph:
    """A graph of ``sample``, ``scale`` and ``shift``, and constants that a chain may have."""
    nodes = chain() if nodes is None else nodes
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "norms",
        [
            value("sample", TensorProto.FLOAT, x),
            value("scale", TensorProto.FLOAT, row),
            value("shift", TensorProto.FLOAT, row),
        ],
        [value(name, TensorProto.FLOAT, [None] * len(x)) for name in outputs],
    )
    constants = {
        "ones": np.full(CHANNELS, ones, np.float32),
        "zeros": np.zeros(CHANNELS, np.float32),
        "bias": np.arange(CHANNELS, dtype=np.float32),
    }
    read = {name for item in nodes for name in item.input}
    used = {name: array for name, array in constants.items() if name in read}
    return Graph.of(model_from_graph(graph, with_mpq=False), used)


def operators(graph: Graph) -> list[str]:
    return [item.op_type for item in graph.model.graph.node]


def feeds(batch: int, rows: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    shapes = {"sample": (batch, TOKENS, CHANNELS), "scale": (rows or batch, 1, CHANNELS)}
    shapes["shift"] = shapes["scale"]
    return {name: rng.standard_normal(s).astype(np.float32) + 1 for name, s in shapes.items()}


def run(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return make_session(graph).run(["Y"], inputs)[0]


def with_body(graph: Graph) -> Graph:
    register_all_schemas()
    graph.model.functions.append(ADA_LAYER_NORM_OPERATOR.function())
    onnx.checker.check_model(graph.structure(), full_check=True)
    return graph


def test_the_whole_chain_is_one_node():
    fused = fuse_layer_norms(model())
    (norm,) = fused.model.graph.node
    assert (norm.op_type, norm.name) == (ADA_LAYER_NORM, "Y")
    assert (list(norm.input), list(norm.output)) == (["sample", "scale", "shift"], ["Y"])
    assert helper.get_node_attr_value(norm, "epsilon") == np.float32(EPSILON)
    assert not fused.values()


@pytest.mark.parametrize(
    "nodes",
    [
        chain(product="scale normal", total="shift scaled"),
        chain(axis=2),
        chain("sample ones zeros"),
    ],
    ids=["the other way round", "the axis from the front", "a bias of zeros"],
)
def test_chains_that_mean_the_same(nodes):
    assert operators(fuse_layer_norms(model(nodes))) == [ADA_LAYER_NORM]


def test_an_epsilon_that_is_left_out_is_that_of_the_operator():
    nodes = chain()
    del nodes[0].attribute[:]
    (norm,) = fuse_layer_norms(model(nodes)).model.graph.node
    assert helper.get_node_attr_value(norm, "epsilon") == np.float32(1e-5)


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        (chain(), {"ones": 2}),
        (chain("sample ones bias"), {}),
        (chain(axis=1), {"x": ("batch", TOKENS, CHANNELS)}),
        (chain(), {"row": ("batch", TOKENS, CHANNELS)}),
        (chain(), {"row": ("batch", 1, 1)}),
        (chain(), {"row": ("batch", 1, None)}),
        (chain(), {"row": (3, 1, CHANNELS)}),
        (chain(), {"row": (1, CHANNELS)}),
        (chain(), {"x": ("batch", TOKENS, 2, CHANNELS), "row": ("batch", 1, 1, CHANNELS)}),
        (chain(product="normal normal"), {}),
        (chain(total="scaled scaled"), {}),
        (chain(), {"outputs": ("Y", "normal")}),
        (chain(), {"outputs": ("Y", "scaled")}),
        ([*chain(), node("Neg", "normal", "Z")], {"outputs": ("Y", "Z")}),
    ],
    ids=[
        "a scale of its own",
        "a bias of its own",
        "other axes",
        "a scale for every token",
        "one scale for all channels",
        "channels that are not known",
        "a batch that may be another",
        "rows without a batch",
        "images",
        "the square",
        "the sum with itself",
        "the normal is an output",
        "the product is an output",
        "another reader",
    ],
)
def test_what_is_no_adaptive_normalisation_stays(nodes, options):
    graph = model(nodes, **options)
    assert operators(fuse_layer_norms(graph)) == operators(graph)


def test_in_float16_graphs_it_stays():
    half = to_half(
        model([*chain()[:2], node("Add", "scaled shift", "sum"), node("Neg", "sum", "Y")])
    )
    assert operators(fuse_layer_norms(half)) == operators(half)


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), (3, 1)])
def test_both_forms_compute_what_the_chain_does(batch, rows):
    row = ("batch" if rows == batch else 1, 1, CHANNELS)
    inputs, graph = feeds(batch, rows), model(row=row)
    fused = fuse_layer_norms(graph)
    expected = run(graph, inputs)
    expanded = to_portable(fused, WeightType.INT8)
    assert operators(expanded) == ["Shape", "ConstantOfShape", *CHAIN]
    np.testing.assert_array_equal(run(expanded, inputs), expected)
    np.testing.assert_allclose(run(with_body(fused), inputs), expected, rtol=0, atol=2e-6)


def test_it_is_the_normalisation_of_diffusers():
    from diffusers.models.normalization import AdaLayerNormZero

    torch.manual_seed(0)
    layer = AdaLayerNormZero(CHANNELS, num_embeddings=None).eval()
    x, embedding = torch.randn(2, TOKENS, CHANNELS), torch.randn(2, CHANNELS)
    with torch.no_grad():
        expected = layer(x, emb=embedding)[0].numpy()
        shift, scale = layer.linear(layer.silu(embedding)).chunk(6, dim=1)[:2]
    inputs = {
        "sample": x.numpy(),
        "scale": 1 + scale.numpy()[:, None],
        "shift": shift.numpy()[:, None],
    }
    fused = with_body(fuse_layer_norms(model(chain(epsilon=layer.norm.eps))))
    np.testing.assert_allclose(run(fused, inputs), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: item.attribute.append(helper.make_attribute("axis", 1)),
        lambda item: item.ClearField("attribute"),
        lambda item: item.input.pop(),
        lambda item: item.output.append("mean"),
    ],
    ids=["another attribute", "no attribute", "an input less", "an output more"],
)
def test_a_node_that_its_schema_does_not_allow_is_refused(spoil):
    (norm,) = fuse_layer_norms(model()).model.graph.node
    spoil(norm)
    with pytest.raises(ContractError):
        list(expanded_layer_norm(norm))
