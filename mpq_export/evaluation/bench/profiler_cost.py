"""What ONNX Runtime's profiler itself takes, and a step's nodes without it.

The profiler writes down shapes and types of every node within the node's time: some microseconds
each, which of a small model are as long as its step. A session that profiles cannot stop doing so,
so another one of the same model takes the same step, in turns with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from ..profiling.profiles import NodeTime

TURNS, STEPS_IN_TURN = 5, 4
"""Steps that are timed of each session are their product."""
WARM_UP_STEPS = 2
_REST_SECONDS = 0.05
"""Between two turns: thread pools keep spinning for a moment after their work."""
_ROUNDING = 1e-9

Run = Callable[[], object]


@dataclass(frozen=True)
class TimedTurns:
    """A step with and without the profiler.

    Attributes:
        plain_ms: the median without.
        profiled_ms: the median with it.
        untimed: numbers of the profiled steps that were not timed.
    """

    plain_ms: float
    profiled_ms: float
    untimed: frozenset[int]


@dataclass(frozen=True)
class Corrected:
    """Nodes without the profiler's cost.

    Attributes:
        nodes: each with what was taken off.
        between: milliseconds of the step without the profiler that no node accounts for.
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
    caches, is not timed."""
    for _ in range(WARM_UP_STEPS):
        plain()
        profiled()
    times: dict[Run, list[float]] = {plain: [], profiled: []}
    for _ in range(TURNS):
        for run, own in times.items():
            rest(_REST_SECONDS)
            run()
            for _ in range(STEPS_IN_TURN):
                started = clock()
                run()
                own.append(1e3 * (clock() - started))
    first_of_turns = (WARM_UP_STEPS + turn * (1 + STEPS_IN_TURN) for turn in range(TURNS))
    return TimedTurns(
        median(times[plain]),
        median(times[profiled]),
        frozenset((*range(WARM_UP_STEPS), *first_of_turns)),
    )


def without_profiler(nodes: Sequence[NodeTime], plain_ms: float, profiled_ms: float) -> Corrected:
    """Take from every node what the profiler adds: the difference of the two steps over the
    starts of all nodes.

    None is less than 0, and together they are no longer than the step without the profiler: where
    short nodes cannot give what is taken, or the nodes were slow while they were profiled, the
    others give more. So nodes and the time between them add up to that step.

    Args:
        nodes: as profiled, with milliseconds.
        plain_ms: the step without the profiler.
        profiled_ms: with it.
    """
    cost = _cost_per_start(nodes, max(0.0, profiled_ms - plain_ms), plain_ms)
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
