"""The biggest costs in words."""

import pytest

from mpq_export.evaluation.bench.costs import Cost, Spent, biggest_costs, is_copy
from mpq_export.evaluation.bench.profile import LayerCost
from mpq_export.evaluation.bench.rows import Kind
from mpq_export.evaluation.profiling.profiles import NodeTime


def layer(name, ms, of_peak):
    return LayerCost(
        layer=name, weight="conv 8x72", ms=ms, share=0.1, operators=["MPQConv"],
        arithmetic="int8", weights="packed bit planes", macs=10**6, macs_per_ns=1.0,
        of_peak=of_peak, copies=0,
    )  # fmt: skip


def node(op_type, ms):
    return NodeTime(op_type.lower(), op_type, ms, 10)


NODES = [
    (node("MPQConv", 4.0), "conv"),
    (node("MPQGroupNormSiLU", 2.0), None),
    (node("Concat", 1.0), None),
    (node("Add", 0.5), None),
]


def costs(kind=Kind.BUNDLE, of_peak=0.1, run_ms=8.0, nodes=NODES):
    return biggest_costs(Spent(kind, nodes, [layer("conv", 4.0, of_peak)], run_ms))


def test_the_three_largest_come_first_with_their_shares():
    found = costs()
    assert [cost.title for cost in found] == [Cost.PRODUCTS, Cost.NORMS, Cost.COPIES]
    assert [cost.share for cost in found] == pytest.approx([0.5, 0.25, 0.125])


def test_time_that_no_node_takes_is_a_cost():
    found = costs(run_ms=20.0)
    assert found[0].title == Cost.BETWEEN
    assert found[0].ms == pytest.approx(12.5)
    assert found[0].remedy.startswith("4 nodes are started")


def test_small_layers_and_full_kernels_are_told_apart():
    assert "reach 10% of" in costs(of_peak=0.1)[0].remedy
    assert "Most is lost in conv (conv 8x72), at 10%" in costs(of_peak=0.1)[0].remedy
    assert "surrounds them in a layer" in costs(of_peak=0.4)[0].remedy
    assert "surrounds" not in costs(Kind.INT8, of_peak=0.4)[0].remedy  # its conversions are nodes
    assert "near what kernels reach" in costs(of_peak=0.7)[0].remedy


def test_full_precision_is_told_about_integers():
    found = costs(Kind.FP32)
    assert "float32" in found[0].remedy
    assert found[1].remedy != costs(Kind.BUNDLE)[1].remedy


def test_products_of_two_activations_are_attention_unless_a_layer_owns_them():
    nodes = [(node("MatMul", 3.0), None), (node("MatMul", 2.0), "conv")]
    assert [cost.title for cost in costs(nodes=nodes, run_ms=5.0)] == [
        Cost.ATTENTION, Cost.PRODUCTS,
    ]  # fmt: skip


def test_conversions_and_moves_are_copies():
    assert is_copy("QuantizeLinear")
    assert is_copy("ReorderInput")
    assert not is_copy("Conv")
