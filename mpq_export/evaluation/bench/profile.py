"""Where a row's time goes, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

PROCESSOR, GPU = "processor", "GPU"
"""Where a step runs."""
MOST_TAKEN_OFF = 0.3
"""Of a layer's profiled time: of one that was the profiler's by more, too little is known."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(_Data):
    """A module of the model.

    ``arithmetic`` is the type that its product ran in, ``weights`` how they lie in memory,
    ``macs_per_ns`` the rate of its nodes without those that only move or convert data, which
    ``copies`` counts, and ``of_peak`` that in units of the processor's peak in that type.
    ``kernels`` are those that the runtime says it chose. ``profiler_share`` is what of the profiled
    time of those nodes was the profiler's own and has been taken off; above
    :data:`MOST_TAKEN_OFF` there is no rate.
    """

    layer: str
    weight: str
    ms: float
    share: float
    operators: list[str]
    arithmetic: str
    weights: str
    macs: int | None
    macs_per_ns: float | None
    of_peak: float | None
    copies: int
    kernels: list[str] = []
    profiler_share: float = 0.0


class OperatorCost(_Data):
    """All nodes of an operator."""

    operator: str
    nodes: int
    ms: float
    share: float


class ProfiledCost(_Data):
    """One of the biggest costs in words, and what would remove it."""

    title: str
    ms: float
    share: float
    remedy: str


class Profile(_Data):
    """A step by layer.

    ``run_ms`` is the step that all shares are of, ``node_ms`` what its nodes take of it. Where
    ``profiled_ms`` is given, the step was timed without the runtime's profiler as well: that is
    ``run_ms``, under the profiler it took ``profiled_ms``, and what the profiler adds to every
    start of a node, ``node_cost_ms``, has been taken off. Where it is not, the profiler's own cost
    is in all figures.

    ``peaks_macs_per_ns``, by type of product, are the same for all rows that run on the processor;
    none where other programs ran beside.
    """

    run_ms: float
    node_ms: float
    peaks_macs_per_ns: dict[str, float]
    kernels: str
    layers: list[LayerCost]
    operators: list[OperatorCost]
    costs: list[ProfiledCost]
    device: str = PROCESSOR
    profiled_ms: float | None = None
    node_cost_ms: float | None = None
