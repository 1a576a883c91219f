"""Times of nodes; and ONNX Runtime's profile of a session, JSON events, as such."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Container
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

_SUFFIX = "_kernel_time"
TOGETHER = "+"
"""Between the operators of one node, where a runtime has made it of several."""


@dataclass(frozen=True)
class NodeTime:
    """A node of the graph as ONNX Runtime or TensorRT optimised it.

    Attributes:
        op_type: its operator; of several that TensorRT made one of, all, with :data:`TOGETHER`.
        ms: the median over the runs, of all that it took in one: it may be started several times.
        elements: of its first output; None if the profile does not say.
        types: of its inputs, such as ``float`` and ``int8``.
        kernel: that the runtime chose, where it says.
        starts: how often it is started in a run.
        taken_off: milliseconds that were the profiler's, and are not in ``ms`` any more.
    """

    name: str
    op_type: str
    ms: float
    elements: int | None
    types: tuple[str, ...] = ()
    kernel: str = ""
    starts: int = 1
    taken_off: float = 0.0


def read_profile(path: Path, skip: Container[int]) -> list[NodeTime]:
    """Median times of all nodes, without the runs whose numbers, from 0, are in ``skip``.

    A run's own event, ``model_run``, comes after those of its nodes.
    """
    runs: list[defaultdict[str, float]] = [defaultdict(float)]
    starts: Counter[str] = Counter()
    last: dict[str, dict[str, Any]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            runs[-1][name] += event["dur"]
            starts[name] += 1
            last[name] = event["args"]
        elif event["name"] == "model_run":
            runs.append(defaultdict(float))
    measured = [run for number, run in enumerate(runs[:-1]) if number not in skip]
    every = len(runs) - 1
    return [
        NodeTime(
            name,
            args["op_name"],
            median(run[name] for run in measured) / 1e3,
            _elements(args.get("output_type_shape")),
            tuple(next(iter(one)) for one in args.get("input_type_shape", ()) if one),
            starts=max(1, round(starts[name] / every)),
        )
        for name, args in last.items()
    ]


def read_time_between(path: Path, skip: Container[int]) -> float:
    """Milliseconds of a run that no node accounts for, without the runs of ``skip``.

    The least of all runs: when the system lets another process run, that lands here as well.
    """
    between, in_nodes = [], 0
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            in_nodes += event["dur"]
        elif event["name"] == "model_run":
            between.append(event["dur"] - in_nodes)
            in_nodes = 0
    return max(0, min(one for number, one in enumerate(between) if number not in skip)) / 1e3


def _elements(outputs: list[dict[str, list[int]]] | None) -> int | None:
    """``[{"float": [1, 8, 4, 4]}, ...]`` is what the profile has of outputs."""
    return prod(next(iter(outputs[0].values()))) if outputs else None
