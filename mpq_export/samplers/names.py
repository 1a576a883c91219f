"""Schedulers by the names users type, and a config moved from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class SchedulerName(StrEnum):
    """``--scheduler``: schedulers that work with and without torch."""

    DDIM = "ddim"
    DPM_SOLVER = "dpmsolver++"
    EULER = "euler"
    EULER_ANCESTRAL = "euler-ancestral"


_CONFIGS: dict[SchedulerName, dict[str, Any]] = {
    SchedulerName.DDIM: {"_class_name": "DDIMScheduler"},
    SchedulerName.DPM_SOLVER: {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
    },
    SchedulerName.EULER: {"_class_name": "EulerDiscreteScheduler"},
    SchedulerName.EULER_ANCESTRAL: {"_class_name": "EulerAncestralDiscreteScheduler"},
}


def with_scheduler(config: Mapping[str, Any], name: SchedulerName | None) -> dict[str, Any]:
    """The same noise schedule under another scheduler, as ``from_config`` does; None changes none.

    Options that both classes know are kept, others take the new class's defaults.
    """
    return {**config, **(_CONFIGS[name] if name is not None else {})}
