"""Fusing residuals: which become inputs of which nodes, and that no bit changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from onnx import TensorProto, helper
from plugins.onnxruntime.sessions import require_library

from mpq_export.bundle import read_bundle
from mpq_export.core.integer_reference import ConvGeometry, add_residual, run_layer
from mpq_export.core.planes import ContractError
from mpq_export.lowering.function_bodies import function_bodies
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.nodes import RESIDUAL, is_mpq, make_node, model_from_graph, residual_of
from mpq_export.lowering.operators import register_all_schemas
from mpq_export.lowering.portable import WeightType, to_portable
from mpq_export.lowering.residual_fusion import (
    expanded_residual,
    fuse_residuals,
    of_every_pixel,
)
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import make_session, runnable_graph

from .models import without_residuals

CHANNELS, ROWS, SIZE, TOKENS = 3, 5, 4, 7
IMAGE, X = ("batch", ROWS, SIZE, SIZE), ("batch", CHANNELS, SIZE, SIZE)
LAYERS = {
    "conv": random_layer(Draws(1), [3] * ROWS, 4, CHANNELS, ConvGeometry((3, 3), pads=(1,) * 4)),
    "shortcut": random_layer(Draws(2), [2] * ROWS, 8, CHANNELS, ConvGeometry((1, 1))),
    "linear": random_layer(Draws(3), [3] * ROWS, 4, CHANNELS),
}


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output, **attributes)


def model(
    *after: str | onnx.NodeProto,
    residual: Sequence[int | str | None] = IMAGE,
    x: Sequence[int | str | None] = X,
    outputs: tuple[str, ...] = ("Y",),
) -> Graph:
    """Layers by name, each of ``x`` to ``<name>/y``, among nodes that follow."""
    nodes, values, value = [], {"axes": np.array([2, 3])}, helper.make_tensor_value_info
    for item in after:
        if isinstance(item, str):
            packed, tensors = make_node(item, LAYERS[item], "x", "step_index", f"{item}/y")
            nodes.append(packed)
            values |= tensors
        else:
            nodes.append(item)
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            value("x", TensorProto.FLOAT, x),
            value("step_index", TensorProto.INT32, [1]),
            value("r", TensorProto.FLOAT, residual),
        ],
        [value(name, TensorProto.FLOAT, [None] * len(x)) for name in outputs],
    )
    return Graph.of(model_from_graph(graph), values)


def operators(graph: Graph) -> list[str]:
    return [item.op_type for item in graph.model.graph.node]


def added(graph: Graph) -> dict[str, str | None]:
    """The packed nodes of a graph, and what they add."""
    return {item.name: residual_of(item) for item in graph.model.graph.node if is_mpq(item)}


def feeds(graph: Graph, batch: int = 2) -> dict[str, np.ndarray]:
    inputs = {"step_index": np.array([1], np.int32)}
    for value in graph.model.graph.input:
        if value.name not in inputs:
            dims = (dim.dim_value or batch for dim in value.type.tensor_type.shape.dim)
            inputs[value.name] = Draws.named(value.name).bell(tuple(dims)).astype(np.float32)
    return inputs


def run(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Without the native library: bodies where there are any."""
    return make_session(graph).run(["Y"], inputs)[0]


def with_bodies(graph: Graph) -> Graph:
    register_all_schemas()
    graph.model.functions.extend(function_bodies())
    onnx.checker.check_model(graph.structure(), full_check=True)
    return graph


FUSED = {
    "of its shape": model("conv", node("Add", "conv/y r", "Y")),
    "the other way round": model("conv", node("Add", "r conv/y", "Y")),
    "per image and channel": model(
        "conv", node("Add", "conv/y r", "Y"), residual=("batch", ROWS, 1, 1)
    ),
    "per channel": model("conv", node("Add", "conv/y r", "Y"), residual=(1, ROWS, 1, 1)),
    "a row that is given axes": model(
        node("Unsqueeze", "r axes", "wide"),
        "conv",
        node("Add", "conv/y wide", "Y"),
        residual=("batch", ROWS),
    ),
    "of tokens": model(
        "linear",
        node("Add", "linear/y r", "Y"),
        x=("batch", TOKENS, CHANNELS),
        residual=("batch", TOKENS, ROWS),
    ),
    "of so many tokens as there are": model(
        "linear",
        node("Add", "linear/y r", "Y"),
        x=("batch", "tokens", CHANNELS),
        residual=("batch", "tokens", ROWS),
    ),
}


@pytest.mark.parametrize("graph", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_added_alone_becomes_an_input(graph: Graph, batch: int):
    fused = fuse_residuals(graph)
    assert "Add" not in operators(fused)
    ((name, residual),) = added(fused).items()
    assert residual == ("wide" if "Unsqueeze" in operators(fused) else "r")
    assert fused.model.graph.node[-1].output == ["Y"]
    inputs = feeds(graph, batch)
    y = run_layer(LAYERS[name], inputs["x"], 1).output
    r = inputs["r"].reshape(*inputs["r"].shape, *[1] * (y.ndim - inputs["r"].ndim))
    expected = add_residual(y, r)
    np.testing.assert_array_equal(run(to_portable(fused, WeightType.INT8), inputs), expected)
    np.testing.assert_array_equal(run(with_bodies(fused), inputs), expected)


STAYS = {
    "one column of pixels": model(
        "conv", node("Add", "conv/y r", "Y"), residual=("batch", ROWS, SIZE, 1)
    ),
    "one channel": model("conv", node("Add", "conv/y r", "Y"), residual=("batch", 1, 1, 1)),
    "a channel without a batch": model("conv", node("Add", "conv/y r", "Y"), residual=(ROWS, 1, 1)),
    "pixels that are not known": model(
        "conv", node("Add", "conv/y r", "Y"), residual=("batch", ROWS, None, None)
    ),
    "channels that are not known": model(
        "conv", node("Add", "conv/y r", "Y"), residual=("batch", None, 1, 1)
    ),
    "the same for all images": model(
        "conv", node("Add", "conv/y r", "Y"), residual=(1, ROWS, SIZE, SIZE)
    ),
    "images that may be others": model(
        "conv", node("Add", "conv/y r", "Y"), residual=(2, ROWS, 1, 1)
    ),
    "a row for all tokens": model(
        "linear",
        node("Add", "linear/y r", "Y"),
        x=("batch", TOKENS, CHANNELS),
        residual=("batch", 1, ROWS),
    ),
    "it is larger than what is added to": model(
        "linear", node("Add", "linear/y r", "Y"), x=(1, TOKENS, CHANNELS),
        residual=("batch", TOKENS, ROWS),
    ),
    "its own double": model("conv", node("Add", "conv/y conv/y", "Y"), node("Neg", "r", "Z")),
    "a product": model("conv", node("Mul", "conv/y r", "Y")),
    "the layer's output is one of the graph": model(
        "conv", node("Add", "conv/y r", "Y"), outputs=("Y", "conv/y")
    ),
    "another reader": model(
        "conv", node("Add", "conv/y r", "Y"), node("Neg", "conv/y", "Z"), outputs=("Y", "Z")
    ),
    "no layer": model(node("Neg", "r", "n"), node("Add", "n r", "Y"), "conv"),
}  # fmt: skip


@pytest.mark.parametrize("graph", STAYS.values(), ids=STAYS)
def test_other_sums_stay(graph: Graph):
    fused = fuse_residuals(graph)
    assert set(operators(fused)) & {"Add", "Mul"}
    assert set(added(fused).values()) <= {None}


def test_of_two_layers_the_later_one_adds_and_no_node_two_residuals():
    graph = model(
        "conv", "shortcut", node("Add", "conv/y shortcut/y", "sum"), node("Add", "sum r", "Y")
    )
    fused = fuse_residuals(graph)
    assert operators(fused) == ["MPQConv", "MPQConv", "Add"]
    assert added(fused) == {"conv": None, "shortcut": "conv/y"}
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(with_bodies(fused), inputs), run(with_bodies(graph), inputs))


def test_a_chain_of_sums_is_one_of_layers():
    graph = model(
        "conv", node("Add", "conv/y r", "sum"), "shortcut", node("Add", "sum shortcut/y", "Y")
    )
    fused = fuse_residuals(graph)
    assert added(fused) == {"conv": "r", "shortcut": "sum"}
    assert fuse_residuals(fused).model.graph == fused.model.graph


def test_no_bit_of_a_whole_model_changes(lowered_folder):
    require_library()
    bundle = read_bundle(lowered_folder)
    fused = runnable_graph(bundle, Runtime.ORT)
    apart = without_residuals(fused)
    assert sum(residual is not None for residual in added(fused).values()) == 17
    assert operators(apart).count("Add") == operators(fused).count("Add") + 17
    inputs = {
        "sample": Draws(5).bell((2, 2, 8, 8)).astype(np.float32),
        "timestep": bundle.timesteps[1:2].astype(np.float32),
        "step_index": np.array([1], np.int32),
        "class_labels": np.array([0, 3]),
    }
    results = [make_session(graph).run(None, inputs)[0] for graph in (fused, apart)]
    np.testing.assert_array_equal(*results)


def test_only_the_wanted_forms_are_fused():
    rows = model("conv", node("Add", "conv/y r", "Y"), residual=("batch", ROWS, 1, 1))
    assert "Add" in operators(fuse_residuals(rows, [of_every_pixel]))
    images = model("conv", node("Add", "conv/y r", "Y"))
    assert "Add" not in operators(fuse_residuals(images, [of_every_pixel]))


def test_expanding_gives_back_the_layer_and_the_sum():
    graph = model("conv", node("Add", "conv/y r", "Y"))
    (packed,) = fuse_residuals(graph).model.graph.node
    layer, total = expanded_residual(packed)
    before = graph.model.graph.node[0]
    assert (layer.overload, layer.input) == ("", before.input)
    assert layer.attribute == before.attribute
    assert (total.op_type, total.name) == ("Add", f"conv/{RESIDUAL}")
    assert (list(total.input), list(total.output)) == ([layer.output[0], "r"], ["Y"])
    assert list(expanded_residual(before)) == [before]


def test_a_node_that_its_schema_does_not_allow_is_refused():
    (packed,) = fuse_residuals(model("conv", node("Add", "conv/y r", "Y"))).model.graph.node
    packed.input.append("another")
    with pytest.raises(ContractError, match="conv"):
        list(expanded_residual(packed))
