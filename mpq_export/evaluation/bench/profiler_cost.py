"""What ONNX Runtime's profiler itself takes, and a step's nodes without it.

The profiler writes down shapes and types of every node within the node's time: some microseconds
each, which of a small model are as long as its step. A session that profiles cannot stop doing so,
so another one of the same model takes the same step, in turns with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..profiling.profiles import NodeTime

TURNS, STEPS_IN_TURN = 5, 4
"""As many steps of each session count as are their product, or more (see below)."""
_LEAST_SECONDS = 0.05
"""Of a turn without the profiler: of short steps there are many, so that one is undisturbed."""
WARM_UP_STEPS = 2
_REST_SECONDS = 0.05
"""Between two turns: thread pools keep spinning for a moment after their work."""
_ROUNDING = 1e-9

Run = Callable[[], object]


@dataclass(frozen=True)
class TimedTurns:
    """Steps with and without the profiler.

    Attributes:
        plain_ms: of the least disturbed step without it: whatever else the system runs makes whole
            steps longer, where of the nodes of a profile it falls on a few.
        untimed: numbers of the profiled steps that do not count.
    """

    plain_ms: float
    untimed: frozenset[int]


@dataclass(frozen=True)
class Corrected:
    """Nodes without the profiler's cost.

    Together they and the time between them are the step without the profiler. Where that was
    longer than with it, it was disturbed: then they are as profiled, and the cost is 0.

    Attributes:
        nodes: each with what was taken off.
        between: milliseconds of the step that no node accounts for.
        node_cost_ms: of every start of a node.
    """

    nodes: list[NodeTime]
    between: float
    node_cost_ms: float


def time_in_turns(
    plain: Run,
    profiled: Run,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> TimedTurns:
    """Take steps of both in turns; the first of a turn, which finds the other's data in the
    caches, does not count."""
    for _ in range(WARM_UP_STEPS):
        plain()
        profiled()
    times = []
    for _ in range(TURNS):
        rest(_REST_SECONDS)
        for _ in range(1 + STEPS_IN_TURN):
            profiled()
        rest(_REST_SECONDS)
        plain()
        began, steps = clock(), 0
        while steps < STEPS_IN_TURN or clock() - began < _LEAST_SECONDS:
            started = clock()
            plain()
            times.append(1e3 * (clock() - started))
            steps += 1
    first_of_turns = (WARM_UP_STEPS + turn * (1 + STEPS_IN_TURN) for turn in range(TURNS))
    return TimedTurns(min(times), frozenset((*range(WARM_UP_STEPS), *first_of_turns)))


def without_profiler(nodes: Sequence[NodeTime], plain_ms: float, profiled_ms: float) -> Corrected:
    """Take from every node what the profiler adds: the difference of the two steps over the
    starts of all nodes.

    None is less than 0, and together they are no longer than the step without the profiler: where
    short nodes cannot give what is taken, the others give more. So nodes and the time between them
    add up to that step.

    Args:
        nodes: as profiled, with milliseconds.
        plain_ms: the step without the profiler.
        profiled_ms: with it: all nodes and the time between them.
    """
    plain_ms = min(plain_ms, profiled_ms)
    cost = _cost_per_start(nodes, profiled_ms - plain_ms, plain_ms)
    corrected = []
    for node in nodes:
        taken_off = min(node.ms, cost * node.starts)
        corrected.append(replace(node, ms=node.ms - taken_off, taken_off=taken_off))
    between = max(0.0, plain_ms - sum(node.ms for node in corrected))
    return Corrected(corrected, between, cost)


def _cost_per_start(nodes: Sequence[NodeTime], excess: float, most: float) -> float:
    """The excess shared among all starts, or more, so that what is left is ``most`` at most."""
    if not nodes:
        return 0.0
    cost = excess / sum(node.starts for node in nodes)
    while True:
        giving = [node for node in nodes if node.ms > cost * node.starts]
        beyond = sum(node.ms - cost * node.starts for node in giving) - most
        if beyond <= _ROUNDING * most:
            return cost
        cost += beyond / sum(node.starts for node in giving)
