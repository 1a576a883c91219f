"""Which steps of the sampler share an activation range."""

from __future__ import annotations

from enum import StrEnum


class TableSteps(StrEnum):
    """How the entries of an activation table are found."""

    PER_STEP = "per-step"
    """Each from its own step (finite-set calibration)."""
    SHARED = "shared"
    """All alike, from the inputs of all steps together."""
