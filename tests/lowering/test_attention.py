"""Fusing attention: what is recognised and what is not, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpq_export.bundle import read_bundle
from mpq_export.core.planes import ContractError
from mpq_export.lowering.attention_fusion import fuse_attention
from mpq_export.lowering.attention_nodes import ATTENTION, ATTENTION_OPERATOR, is_attention
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.half_precision import to_half
from mpq_export.lowering.names import Target
from mpq_export.lowering.nodes import model_from_graph
from mpq_export.lowering.operators import register_all_schemas
from mpq_export.lowering.targets import read_lowered
from mpq_export.runtimes.multi_head_attention import with_multi_head_attention
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import make_session, runnable_graph
from mpq_export.runtimes.selection import select

HEADS, WIDTH, TOKENS, SCALE = 3, 8, 10, 0.3
ALL = HEADS * WIDTH
FREE = ("batch", "tokens", ALL)
TOLERANCE = 1e-5
BY_HEAD, BY_HEAD_TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output, **attributes)


def chain(after_scores: str = "", axis: int = -1) -> list[onnx.NodeProto]:
    """What the tracer writes; ``after_scores`` names a tensor that is added to the scores."""
    return [
        node("Reshape", "query by_query", "q4"),
        node("Transpose", "q4", "q", perm=BY_HEAD),
        node("Reshape", "key by_key", "k4"),
        node("Reshape", "value by_key", "v4"),
        node("Transpose", "v4", "v", perm=BY_HEAD),
        node("Mul", "q scale", "scaled"),
        node("Transpose", "k4", "k", perm=BY_HEAD_TRANSPOSED),
        node("MatMul", "scaled k", "scores"),
        *([node("Add", f"scores {after_scores}", "masked")] if after_scores else []),
        node("Softmax", "masked" if after_scores else "scores", "weights", axis=axis),
        node("MatMul", "weights v", "attended"),
        node("Transpose", "attended", "tokens_first", perm=BY_HEAD),
        node("Reshape", "tokens_first merged", "Y"),
    ]


def model(
    nodes: list[onnx.NodeProto] | None = None,
    query: tuple = ("batch", TOKENS, ALL),
    key: tuple = ("batch", TOKENS, ALL),
    outputs: Mapping[str, int] = {"Y": 3},
    **constants: object,
) -> Graph:
    """A graph of ``query``, ``key`` and ``value`` with the chain's constants, or other ones."""
    heads = [HEADS, WIDTH]
    nodes = chain() if nodes is None else nodes
    if key == FREE:
        # As the tracer repeats a free number of tokens: the batch of an input, then the rest.
        nodes = [
            node("Shape", "key", "batch", start=0, end=1),
            node("Concat", "batch rest heads", "by_key", axis=0),
            *nodes,
        ]
    values = {
        "by_query": [-1, TOKENS, *heads],
        "by_key": [-1, key[1], *heads] if key != FREE else None,
        "rest": [-1] if key == FREE else None,
        "heads": heads if key == FREE else None,
        "merged": [-1, TOKENS, ALL],
        "scale": SCALE,
        "mask": np.zeros(TOKENS),
        **constants,
    }
    arrays = {
        name: np.array(value, np.int64 if isinstance(value, list) else np.float32)
        for name, value in values.items()
        if value is not None
    }
    read = {name for item in nodes for name in item.input}
    value_info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            value_info("query", TensorProto.FLOAT, query),
            value_info("key", TensorProto.FLOAT, key),
            value_info("value", TensorProto.FLOAT, key),
        ],
        [value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
    )
    used = {name: value for name, value in arrays.items() if name in read}
    return Graph.of(model_from_graph(graph, with_mpq=False), used)


def operators(graph: Graph) -> list[str]:
    return [item.op_type for item in graph.model.graph.node]


def feeds(batch: int, tokens: int = TOKENS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    lengths = {"query": TOKENS, "key": tokens, "value": tokens}
    return {
        name: rng.standard_normal((batch, length, ALL)).astype(np.float32)
        for name, length in lengths.items()
    }


def run(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return make_session(graph).run(["Y"], inputs)[0]


def with_body(graph: Graph) -> Graph:
    graph.model.functions.append(ATTENTION_OPERATOR.function())
    return graph


KEYS = {"self": ("batch", TOKENS, ALL), "other tokens": ("batch", 7, ALL), "free tokens": FREE}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_the_whole_chain_is_one_node(key):
    fused = fuse_attention(model(key=key))
    assert operators(fused) == [ATTENTION]
    assert not fused.values()
    (attention,) = fused.model.graph.node
    assert (list(attention.input), list(attention.output)) == (["query", "key", "value"], ["Y"])
    assert {a.name: helper.get_attribute_value(a) for a in attention.attribute} == {
        "num_heads": HEADS,
        "scale": np.float32(SCALE),
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_both_forms_compute_what_the_chain_does(key, batch):
    register_all_schemas()
    inputs = feeds(batch, tokens=7 if key != KEYS["self"] else TOKENS)
    expected = run(model(key=key), inputs)
    fused = fuse_attention(model(key=key))
    native = with_multi_head_attention(fused)
    assert operators(native) == ["MultiHeadAttention"]
    np.testing.assert_allclose(run(native, inputs), expected, rtol=0, atol=TOLERANCE)
    bodies = with_body(fused)
    onnx.checker.check_model(bodies.structure(), full_check=True)
    np.testing.assert_allclose(run(bodies, inputs), expected, rtol=0, atol=TOLERANCE)


def test_attention_without_a_scale_has_the_scale_1():
    nodes = [item for item in chain() if item.output[0] != "scaled"]
    next(item for item in nodes if item.output[0] == "scores").input[0] = "q"
    fused = fuse_attention(model(nodes))
    assert operators(fused) == [ATTENTION]
    native = with_multi_head_attention(fused)
    inputs = feeds(2)
    np.testing.assert_allclose(
        run(native, inputs), run(model(nodes), inputs), rtol=0, atol=TOLERANCE
    )


def test_masked_attention_stays():
    graph = model(chain(after_scores="mask"))
    assert operators(fuse_attention(graph)) == operators(graph)


def test_softmax_over_the_queries_stays():
    graph = model(chain(axis=2))
    assert operators(fuse_attention(graph)) == operators(graph)


@pytest.mark.parametrize(
    "changes",
    [
        {"by_query": [-1, 5, HEADS, WIDTH], "merged": [-1, 5, ALL]},
        {"query": ("batch", TOKENS, WIDTH), "by_query": [-1, TOKENS, 1, WIDTH]},
        {"merged": [-1, 2 * TOKENS, ALL]},
        {"query": ("batch", None, ALL), "by_query": [-1, 5, HEADS, WIDTH], "merged": [-1, 5, ALL]},
        {"key": (1, TOKENS, ALL)},
        {"scale": np.full((TOKENS, 1), SCALE)},
    ],
    ids=[
        "tokens go to the batch",
        "one head for all of the key's",
        "the batch goes to the tokens",
        "tokens that are not known",
        "one key for the whole batch",
        "a scale for every token",
    ],
)
def test_what_shapes_do_not_prove_stays(changes):
    graph = model(**changes)
    assert operators(fuse_attention(graph)) == operators(graph)


def test_what_something_else_reads_stays():
    graph = model(chain(), outputs={"Y": 3, "k4": 4})
    fused = fuse_attention(graph)
    assert sorted(operators(fused)) == ["MPQAttention", "Reshape"]
    assert list(fused.values()) == ["by_key"]


def test_float16_graphs_are_fused_too():
    """The keys do not depend on the sample: they stay float32 until their heads are multiplied."""
    nodes = [
        node("Mul", "sample scale", "query"),
        *chain(),
        node("Add", "Y scale", "prediction"),
    ]
    graph = model(nodes, outputs={"prediction": 3}).model
    graph.graph.input[0].name = "sample"
    half = to_half(Graph.of(graph))
    fused = fuse_attention(half)
    assert operators(fused).count(ATTENTION) == 1
    assert not {"Softmax", "MatMul", "Transpose"}.intersection(operators(fused))
    inferred = onnx.shape_inference.infer_shapes(fused.structure(), strict_mode=True)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    assert types["Y"] == types["Y/key"] == types["Y/value"] == TensorProto.FLOAT16

    inputs = feeds(2)
    inputs["sample"] = inputs.pop("query")
    results = [
        make_session(form).run(["prediction"], inputs)[0]
        for form in (half, with_multi_head_attention(fused), with_body(fused))
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=5e-3)


def test_a_node_with_more_than_its_own_is_refused():
    """ONNX Runtime's operator would take a bias, a mask, or an attribute of that name."""
    for spoil in (
        lambda item: item.input.append("query"),
        lambda item: item.output.append("present"),
        lambda item: item.attribute.append(helper.make_attribute("unidirectional", 1)),
        lambda item: item.attribute.pop(),
    ):
        fused = fuse_attention(model())
        spoil(fused.model.graph.node[0])
        with pytest.raises(ContractError, match="node Y is not MPQAttention"):
            with_multi_head_attention(fused)


def test_every_attention_of_a_whole_model(lowered_folder):
    bundle = read_bundle(lowered_folder)
    standard = operators(read_lowered(lowered_folder, Target.ONNX))
    lowered = read_lowered(lowered_folder, Target.ORT)
    fused = [item for item in lowered.model.graph.node if is_attention(item)]
    assert len(fused) == standard.count("Softmax") == 4
    assert "Softmax" not in operators(lowered)
    assert operators(runnable_graph(bundle, Runtime.ORT_PORTABLE)).count("MultiHeadAttention") == 4
    native = operators(runnable_graph(bundle, Runtime.ORT))
    kept = ATTENTION if select(Runtime.ORT).runs is Runtime.ORT else "MultiHeadAttention"
    assert native.count(kept) == 4
    assert operators(runnable_graph(bundle, Runtime.ORT_FUNCTIONS)).count(ATTENTION) == 4


def test_the_digits_attend_in_one_node(digits_folder):
    """From the first image on, with labels and a batch of another size than was traced."""
    from mpq_export.runtimes.denoiser import open_denoiser

    bundle = read_bundle(digits_folder)
    sample = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    labels = np.arange(3)
    results = [
        open_denoiser(bundle, runtime)(sample, 666, class_labels=labels)
        for runtime in (Runtime.ORT, Runtime.ORT_FUNCTIONS)
    ]
    difference = np.linalg.norm(results[0] - results[1]) / np.linalg.norm(results[1])
    assert difference < 0.1, "the nodes are exact, what lies between them rounds differently"
