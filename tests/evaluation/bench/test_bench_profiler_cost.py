"""Profiles made up by hand, and the steps without the profiler that they come from."""

from types import SimpleNamespace

import pytest

from mpq_export.evaluation.bench import profiling
from mpq_export.evaluation.bench.cost_kinds import Cost
from mpq_export.evaluation.bench.costs import rated
from mpq_export.evaluation.bench.measured_step import MeasuredStep
from mpq_export.evaluation.bench.pages.words import rate, step_times
from mpq_export.evaluation.bench.profiler_cost import (
    STEPS_IN_TURN,
    TURNS,
    time_in_turns,
    without_profiler,
)
from mpq_export.evaluation.bench.rows import Kind
from mpq_export.evaluation.profiling.profiles import NodeTime


def node(name, ms, starts=1, op_type="MPQLinear"):
    return NodeTime(name, op_type, ms, 8, starts=starts)


def test_what_the_profiler_adds_is_taken_from_every_start_of_a_node():
    """4 starts, 0.4 ms longer: 0.1 ms each."""
    found = without_profiler([node("a", 0.5), node("b", 0.3, 2), node("c", 0.2)], 0.65, 1.05)
    assert found.node_cost_ms == pytest.approx(0.1)
    assert [one.ms for one in found.nodes] == pytest.approx([0.4, 0.1, 0.1])
    assert [one.taken_off for one in found.nodes] == pytest.approx([0.1, 0.2, 0.1])
    assert found.between == pytest.approx(0.05)


def test_a_node_that_is_shorter_than_the_cost_takes_no_time_and_the_rest_gives_more():
    """The difference alone would leave 1.4 ms of nodes in a step of 1.25."""
    nodes = [node("a", 1.0), node("b", 1.0), node("tiny", 0.05)]
    found = without_profiler(nodes, 1.25, 2.15)
    assert [one.ms for one in found.nodes] == pytest.approx([0.625, 0.625, 0])
    assert found.between == 0
    assert found.node_cost_ms == pytest.approx(0.375)


@pytest.mark.parametrize(("plain", "profiled"), [(1.6, 4.1), (3.6, 4.1), (0.5, 9.0), (3.7, 4.1)])
def test_nodes_and_the_time_between_add_up_to_the_step_without_the_profiler(plain, profiled):
    nodes = [node(f"n{k}", 0.002 * k, 1 + k % 3) for k in range(60)]
    found = without_profiler(nodes, plain, profiled)
    assert sum(one.ms for one in found.nodes) + found.between == pytest.approx(plain)
    assert all(one.ms >= 0 for one in found.nodes)
    for one, given in zip(found.nodes, nodes, strict=True):
        assert one.ms + one.taken_off == pytest.approx(given.ms)


def test_a_profiler_that_costs_nothing_changes_nothing():
    nodes = [node("a", 1.0), node("b", 2.0)]
    found = without_profiler(nodes, 3.4, 3.4)
    assert (found.nodes, found.between) == (nodes, pytest.approx(0.4))
    assert found.node_cost_ms == 0


def test_a_step_that_was_disturbed_without_the_profiler_changes_nothing():
    """It is no slower with it: what the other programs took is not time between the nodes."""
    nodes = [node("a", 1.0), node("b", 2.0)]
    assert without_profiler(nodes, 38.0, 3.4) == without_profiler(nodes, 3.4, 3.4)


class Machine:
    """A clock that its steps advance: 1 ms without the profiler, 3 with it, and 50 more for the
    first step after the other's; every third without the profiler is disturbed."""

    def __init__(self):
        self.now, self.last, self.runs, self.rests = 0.0, None, [], []

    def step(self, name, ms):
        disturbed = name == "plain" and len(self.runs) % 3 == 0
        self.now += 1e-3 * ms + (0.05 if name != self.last or disturbed else 0)
        self.last = name
        self.runs.append(name)

    def rest(self, seconds):
        self.now += seconds
        self.rests.append(len(self.runs))


def test_steps_take_turns_and_the_first_of_a_turn_does_not_count():
    machine = Machine()
    found = time_in_turns(
        lambda: machine.step("plain", 1),
        lambda: machine.step("profiled", 3),
        lambda: machine.now,
        machine.rest,
    )
    assert found.plain_ms == pytest.approx(1)
    profiled = machine.runs.count("profiled")
    assert profiled - len(found.untimed) == TURNS * STEPS_IN_TURN
    own = [n for n, name in enumerate(machine.runs) if name == "profiled"]
    first = {k for k, n in enumerate(own) if machine.runs[n - 1] == "plain"}
    assert first <= found.untimed
    assert len(machine.rests) == 2 * TURNS


@pytest.fixture
def profile(monkeypatch):
    """One long layer and one that is mostly the profiler's, of a step of 2 ms that took 3."""

    def layer():
        return SimpleNamespace(weight=SimpleNamespace(rows=8, columns=36), conv=None)

    bundle = SimpleNamespace(layers={"long": layer(), "short": layer()}, channels={})
    nodes = [node("long", 1.8), node("short", 0.6), node("add", 0.6, op_type="Add")]
    found = without_profiler(nodes, 2.0, 3.0)
    measured = MeasuredStep(
        found.nodes, found.between, {"long": "long", "short": "short"}.get, "ours",
        profiled_ms=3.0, node_cost_ms=found.node_cost_ms,
    )  # fmt: skip
    return profiling.profile_of(measured, bundle)


def test_layers_are_shares_of_the_step_without_the_profiler(profile):
    assert profile.run_ms == pytest.approx(2.0)
    assert profile.profiled_ms == 3.0
    assert profile.node_cost_ms == pytest.approx(1 / 3)
    assert sum(operator.ms for operator in profile.operators) == pytest.approx(2.0)
    assert sum(cost.share for cost in profile.costs) == pytest.approx(1.0)


def test_a_layer_whose_time_was_mostly_the_profilers_has_no_rate(profile):
    long, short = profile.layers
    assert long.profiler_share == pytest.approx(1 / 3 / 1.8)
    assert long.macs_per_ns == pytest.approx(8 * 36 / (1e6 * (1.8 - 1 / 3)))
    assert short.profiler_share == pytest.approx(1 / 3 / 0.6)
    assert short.macs_per_ns is None
    assert rate(short) == "no rate: 56% of its profiled time was the profiler's"
    said = rated(profile, Kind.BUNDLE, {"int8": long.macs_per_ns * 2})
    assert "(50% of peak)" in rate(said.layers[0])
    products = next(cost for cost in said.costs if cost.title == Cost.PRODUCTS)
    assert "1 of 2 layers are too short to have a rate" in products.remedy


def test_both_steps_are_said(profile):
    said = step_times(profile)
    assert said == "2.00 ms a step, 3.00 ms under the profiler, whose 333.3 us a node are taken off"
    engine = profile.model_copy(update={"profiled_ms": None, "node_cost_ms": None})
    assert step_times(engine) == "2.00 ms under the profiler"
    disturbed = profile.model_copy(update={"profiled_ms": 2.0, "node_cost_ms": 0.0})
    assert step_times(disturbed) == "2.00 ms under the profiler, and no less without it"
