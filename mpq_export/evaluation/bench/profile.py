"""Where a row's time goes, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(_Data):
    """A module of the model.

    ``arithmetic`` is the type that its product ran in, ``weights`` how they lie in memory,
    ``of_peak`` the achieved rate in units of the processor's measured int8 peak, and ``copies``
    counts the nodes of it that only move or convert data.
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
    """A step under the runtime's profiler, whose own cost is in all figures."""

    run_ms: float
    node_ms: float
    peak_macs_per_ns: float | None
    kernels: str
    layers: list[LayerCost]
    operators: list[OperatorCost]
    costs: list[ProfiledCost]
