"""ONNX Runtime's profile of a session: JSON events, here as a time per node."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """A node of the graph as ONNX Runtime optimised it.

    Attributes:
        ms: the median over the runs.
        elements: of its first output; None if the profile does not say.
        types: of its inputs, such as ``float`` and ``int8``.
    """

    name: str
    op_type: str
    ms: float
    elements: int | None
    types: tuple[str, ...] = ()


def read_profile(path: Path, skip: int) -> list[NodeTime]:
    """Median times of all nodes, without the first ``skip`` runs."""
    events = json.loads(path.read_text(encoding="utf-8"))
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            runs[event["name"].removesuffix(_SUFFIX)].append(event)
    return [
        NodeTime(
            name,
            own[-1]["args"]["op_name"],
            median(event["dur"] for event in own[skip:]) / 1e3,
            _elements(own[-1]["args"].get("output_type_shape")),
            tuple(next(iter(one)) for one in own[-1]["args"].get("input_type_shape", ()) if one),
        )
        for name, own in runs.items()
    ]


def read_time_between(path: Path, skip: int) -> float:
    """Milliseconds of a run that no node accounts for, without the first ``skip`` runs.

    The least of all runs: when the system lets another process run, that lands here as well.
    """
    between, in_nodes = [], 0
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            in_nodes += event["dur"]
        elif event["name"] == "model_run":
            between.append(event["dur"] - in_nodes)
            in_nodes = 0
    return max(0, min(between[skip:])) / 1e3


def _elements(outputs: list[dict[str, list[int]]] | None) -> int | None:
    """``[{"float": [1, 8, 4, 4]}, ...]`` is what the profile has of outputs."""
    return prod(next(iter(outputs[0].values()))) if outputs else None
