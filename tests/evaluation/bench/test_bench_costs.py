"""The biggest costs in words."""

import pytest

from mpq_export.evaluation.bench.cost_kinds import Cost, cost_of, is_copy
from mpq_export.evaluation.bench.costs import best_rates, biggest_costs, rated
from mpq_export.evaluation.bench.profile import GPU, LayerCost, OperatorCost, Profile
from mpq_export.evaluation.bench.rows import Kind
from mpq_export.evaluation.profiling.profiles import NodeTime


def layer(name, rate, arithmetic="int8"):
    return LayerCost(
        layer=name, weight="conv 8x72", ms=4.0, share=0.1, operators=["MPQConv"],
        arithmetic=arithmetic, weights="packed bit planes", macs=10**6, macs_per_ns=rate,
        of_peak=None, copies=0,
    )  # fmt: skip


def profile(layers, nodes=(), run_ms=8.0):
    return Profile(
        run_ms=run_ms, node_ms=1.0, peaks_macs_per_ns={}, kernels="", layers=layers,
        operators=[OperatorCost(operator="x", nodes=len(nodes), ms=1.0, share=0.1)],
        costs=biggest_costs(nodes, layers, run_ms),
    )  # fmt: skip


def node(op_type, ms):
    return NodeTime(op_type.lower(), op_type, ms, 10)


NODES = [
    (node("MPQConv", 4.0), "conv"),
    (node("MPQGroupNormSiLU", 2.0), None),
    (node("Concat", 1.0), None),
    (node("Add", 0.5), None),
]


PEAKS = {"int8": 1.0, "float32": 0.25}


def costs(kind=Kind.BUNDLE, of_peak=0.1, run_ms=8.0, nodes=NODES):
    arithmetic = "float32" if kind is Kind.FP32 else "int8"
    layers = [layer("conv", of_peak * PEAKS[arithmetic], arithmetic)]
    return rated(profile(layers, nodes, run_ms), kind, PEAKS).costs


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
    found = costs(Kind.FP32, of_peak=0.7)
    assert "reach 70% of the processor's float32 peak over 1 M MAC" in found[0].remedy
    assert "int8 is 4.0 times as high" in found[0].remedy
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


def test_no_layer_is_beyond_the_peak_that_is_raised_to_the_best():
    profiles = [profile([layer("a", 20.0), layer("b", 50.0)]), profile([layer("c", 30.0)])]
    peaks = {"int8": max(10.0, best_rates(profiles)["int8"])}
    shares = [own.of_peak for one in profiles for own in rated(one, Kind.BUNDLE, peaks).layers]
    assert shares == pytest.approx([0.4, 1.0, 0.6])


def test_layers_are_held_against_the_peak_of_their_own_type():
    layers = [layer("a", 3.0, "float32"), layer("conv", 5.0), layer("c", 1.0, "float16")]
    mixed = profile(layers, NODES)
    assert best_rates([mixed]) == {"float32": 3, "int8": 5, "float16": 1}
    found = rated(mixed, Kind.BUNDLE, {"int8": 10.0, "float32": 4.0})
    assert [own.of_peak for own in found.layers] == [0.75, 0.5, None]
    assert found.peaks_macs_per_ns == {"int8": 10, "float32": 4}
    assert "reach 50% of the processor's int8 peak over 1 M MAC" in found.costs[0].remedy
    assert best_rates([]) == {}


def test_without_a_peak_nothing_is_said_of_one():
    found = rated(profile([layer("conv", 1.0)], NODES), Kind.BUNDLE, {})
    assert found.layers[0].of_peak is None
    assert "peak" not in found.costs[0].remedy


def test_layers_count_by_the_time_of_their_products():
    """Both do as many: at 1 and 0.5 of the peak, they take a third and two thirds of the time."""
    both = [layer("fast", 1.0), layer("slow", 0.5)]
    nodes = [(node("MPQConv", 4.0), "fast"), (node("MPQConv", 4.0), "slow")]
    said = rated(profile(both, nodes), Kind.BUNDLE, PEAKS).costs[0].remedy
    assert "reach 67% of the processor's int8 peak over 2 M MAC" in said


def test_several_operators_in_one_are_for_what_leads_them():
    def of(op_type, in_layer=False):
        return cost_of(node(op_type, 1.0), in_layer)

    assert of("InstanceNormalization+Mul+Add+Sigmoid") == Cost.NORMS
    assert of("Mul+Softmax") == of("Reshape+MatMul+Transpose") == Cost.ATTENTION
    assert of("Transpose+Reshape") == Cost.COPIES
    assert of("Reshape+Cast") == Cost.CONVERSIONS
    assert of("Sigmoid+Mul") == Cost.ELEMENTWISE
    assert of("QuantizeLinear+Conv", in_layer=True) == Cost.PRODUCTS
    assert is_copy("Reformat")
    assert not is_copy("Transpose+Add")


def test_a_gpu_is_not_held_against_the_processors_peak():
    on_gpu = profile([layer("conv", 900.0), layer("slow", 30.0)], NODES, 20.0)
    on_gpu = on_gpu.model_copy(update={"device": GPU})
    assert best_rates([on_gpu, profile([layer("a", 20.0)])]) == {"int8": 20}
    found = rated(on_gpu, Kind.BUNDLE, {"int8": 50.0})
    assert found.peaks_macs_per_ns == {}
    assert {one.of_peak for one in found.layers} == {None}
    assert [cost.title for cost in found.costs] == [Cost.BETWEEN, Cost.PRODUCTS, Cost.NORMS]
    assert "one CUDA graph" in found.costs[0].remedy
    assert "conv (conv 8x72) reaches 900.0 MAC/ns, slow (conv 8x72) 30.0" in found.costs[1].remedy
    assert "take 20% of the step" in found.costs[1].remedy
