"""Fusing GELUs: which are fused and which are not, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from diffusers.models.activations import GEGLU as DiffusersGeglu
from onnx import TensorProto, helper

from mpq_export.core.planes import ContractError
from mpq_export.lowering.gelu_fusion import expanded_gelu, fuse_gelus
from mpq_export.lowering.gelu_nodes import GEGLU, GELU, GELU_OPERATORS
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.half_precision import to_half
from mpq_export.lowering.nodes import model_from_graph
from mpq_export.lowering.operators import register_all_schemas
from mpq_export.lowering.portable import WeightType, to_portable
from mpq_export.lowering.tensorrt_form import to_tensorrt
from mpq_export.runtimes.onnxruntime_denoiser import make_session

WIDTH, TOKENS = 6, 5
TOLERANCE = 2e-6
every_form = pytest.mark.parametrize("form", ["none", "tanh"])


def node(op_type: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(
        op_type, inputs.split(), outputs.split(), name=outputs.split()[-1], **attributes
    )


def unit(form: str = "none", gate: str = "second", **split) -> list[onnx.NodeProto]:
    """What the tracer writes of a linear unit that a GELU gates."""
    factor = "first" if gate == "second" else "second"
    return [
        node("Split", "sample", "first second", **({"axis": 2, "num_outputs": 2} | split)),
        node("Gelu", gate, "opened", approximate=form),
        node("Mul", f"{factor} opened", "Y"),
    ]


def model(
    nodes: list[onnx.NodeProto], dims: tuple = ("batch", TOKENS, 2 * WIDTH), outputs=("Y",)
) -> Graph:
    """``sample -> outputs`` through the nodes, and a constant ``sizes`` that a split may have."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "gelus",
        [value("sample", TensorProto.FLOAT, dims)],
        [value(name, TensorProto.FLOAT, [None] * len(dims)) for name in outputs],
    )
    uses = any("sizes" in item.input for item in nodes)
    constants = {"sizes": np.array([WIDTH, WIDTH])} if uses else {}
    return Graph.of(model_from_graph(graph, with_mpq=False), constants)


def operators(graph: Graph) -> list[str]:
    return [item.op_type for item in graph.model.graph.node]


def draw(*shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return make_session(graph).run(None, {"sample": x})[0]


def with_bodies(graph: Graph) -> Graph:
    register_all_schemas()
    graph.model.functions.extend(operator.function() for operator in GELU_OPERATORS)
    onnx.checker.check_model(graph.structure(), full_check=True)
    return graph


# --- what is fused ------------------------------------------------------------------------------


@every_form
def test_a_gated_linear_unit_is_one_node(form):
    fused = fuse_gelus(model(unit(form)))
    (geglu,) = fused.model.graph.node
    assert (geglu.op_type, geglu.name) == (GEGLU, "Y")
    assert (list(geglu.input), list(geglu.output)) == (["sample"], ["Y"])
    assert helper.get_node_attr_value(geglu, "approximate") == form.encode()


@pytest.mark.parametrize("product", ["first opened", "opened first"])
@pytest.mark.parametrize("axis", [2, -1])
def test_neither_the_order_of_factors_nor_the_axis_sign_matters(product, axis):
    nodes = unit(axis=axis)
    nodes[-1] = node("Mul", product, "Y")
    assert operators(fuse_gelus(model(nodes))) == [GEGLU]


def test_a_split_by_sizes_is_one_too():
    nodes = unit()
    nodes[0] = node("Split", "sample sizes", "first second", axis=-1)
    fused = fuse_gelus(model(nodes))
    assert operators(fused) == [GEGLU]
    assert not fused.values()


def test_alone_the_approximation_is_one_node_and_erf_stays_as_it_is():
    for form, op_type in (("tanh", GELU), ("none", "Gelu")):
        graph = model([node("Gelu", "sample", "Y", approximate=form)])
        assert operators(fuse_gelus(graph)) == [op_type]
    assert operators(fuse_gelus(model([node("Gelu", "sample", "Y")]))) == ["Gelu"]


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        (unit(axis=1), {"dims": ("batch", 2 * TOKENS, WIDTH)}),
        (unit(), {"dims": ("batch", TOKENS, None)}),
        (unit(), {"dims": ("batch", TOKENS, 2 * WIDTH - 1)}),
        (unit(gate="first"), {}),
        (unit(), {"outputs": ("Y", "opened")}),
        (unit(), {"outputs": ("Y", "first")}),
        ([*unit(), node("Neg", "second", "Z")], {"outputs": ("Y", "Z")}),
        ([*unit()[:2], node("Mul", "opened opened", "Y"), node("Neg", "first", "Z")],
         {"outputs": ("Y", "Z")}),
        ([*unit()[:2], node("Add", "first opened", "Y")], {}),
    ],
    ids=[
        "another axis",
        "a width that is not known",
        "halves that differ",
        "the first half is the gate",
        "the gate is an output",
        "a half is an output",
        "another reader of a half",
        "the square of the gate",
        "a sum",
    ],
)  # fmt: skip
def test_what_is_no_gated_linear_unit_stays(nodes, options):
    graph = model(nodes, **options)
    assert operators(fuse_gelus(graph)) == operators(graph)


def test_other_targets_keep_their_standard_operators():
    """TensorRT has a GELU of its own, and fuses what stands around it."""
    for lowered in (
        to_tensorrt(model(unit())),
        to_portable(model(unit()), WeightType.PORTABLE),
    ):
        assert operators(lowered) == ["Split", "Gelu", "Mul"]


# --- that it computes the same ------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("gated", [True, False])
def test_expanding_gives_back_what_was_fused(form, gated):
    plain = [node("Gelu", "sample", "Y", approximate="tanh")]
    graph = model(unit(form) if gated else plain)
    expanded = to_portable(fuse_gelus(graph), WeightType.INT8)
    assert operators(expanded) == operators(graph)
    x = draw(2, TOKENS, 2 * WIDTH)
    np.testing.assert_array_equal(run(expanded, x), run(graph, x))


@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_the_unit_of_diffusers(batch):
    torch.manual_seed(0)
    layer = DiffusersGeglu(4, WIDTH).eval()
    x = torch.from_numpy(draw(batch, TOKENS, 4))
    with torch.no_grad():
        projected, expected = layer.proj(x).numpy(), layer(x).numpy()
    fused = with_bodies(fuse_gelus(model(unit())))
    np.testing.assert_allclose(run(fused, projected), expected, rtol=0, atol=TOLERANCE)


@every_form
def test_the_body_is_the_gelu_of_torch(form):
    x = draw(2, TOKENS, 2 * WIDTH)
    own = helper.make_node(GELU, ["sample"], ["Y"], name="gelu", domain="mpq", approximate=form)
    graph = model([own])
    graph.model.opset_import.append(helper.make_opsetid("mpq", 1))
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=form).numpy()
    np.testing.assert_allclose(run(with_bodies(graph), x), expected, rtol=0, atol=TOLERANCE)


def test_float16_graphs_are_fused_too():
    half = to_half(model([*unit(), node("Neg", "Y", "prediction")], outputs=("prediction",)))
    fused = fuse_gelus(half)
    assert operators(fused).count(GEGLU) == 1
    assert not {"Split", "Gelu", "Mul"}.intersection(operators(fused))
    x = draw(2, TOKENS, 2 * WIDTH)
    body = run(with_bodies(fused), x)
    np.testing.assert_allclose(body, run(half, x), rtol=2e-3, atol=2e-3)


# --- nodes that are malformed -------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: item.attribute.append(helper.make_attribute("axis", 1)),
        lambda item: item.ClearField("attribute"),
        lambda item: setattr(item.attribute[0], "s", b"sigmoid"),
        lambda item: item.input.append("sample"),
        lambda item: item.output.append("Z"),
    ],
    ids=["another attribute", "no attribute", "another form", "an input more", "an output more"],
)
def test_a_node_that_its_schema_does_not_allow_is_refused(spoil):
    (geglu,) = fuse_gelus(model(unit())).model.graph.node
    spoil(geglu)
    with pytest.raises(ContractError):
        list(expanded_gelu(geglu))
