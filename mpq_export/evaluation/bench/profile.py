"""Where a row's time goes, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

INTEGERS = "int8"
"""The arithmetic whose peak is measured."""
PROCESSOR, GPU = "processor", "GPU"
"""Where a step runs."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(_Data):
    """A module of the model.

    ``arithmetic`` is the type that its product ran in, ``weights`` how they lie in memory,
    ``macs_per_ns`` the rate of its nodes without those that only move or convert data, which
    ``copies`` counts, and ``of_peak`` that in units of the processor's int8 peak. ``kernels`` are
    those that the runtime says it chose.
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
    """A step under the runtime's profiler, whose own cost is in all figures.

    ``peak_macs_per_ns`` is one for all rows that run on the processor; none where other programs
    ran beside.
    """

    run_ms: float
    node_ms: float
    peak_macs_per_ns: float | None
    kernels: str
    layers: list[LayerCost]
    operators: list[OperatorCost]
    costs: list[ProfiledCost]
    device: str = PROCESSOR
