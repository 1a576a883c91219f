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


_CLASSES = {
    SchedulerName.DDIM: "DDIMScheduler",
    SchedulerName.DPM_SOLVER: "DPMSolverMultistepScheduler",
    SchedulerName.EULER: "EulerDiscreteScheduler",
    SchedulerName.EULER_ANCESTRAL: "EulerAncestralDiscreteScheduler",
}


def with_scheduler(config: Mapping[str, Any], name: SchedulerName | None) -> dict[str, Any]:
    """The same noise schedule under another scheduler, as ``from_config`` does; None changes none.

    Options that both classes know are kept, others take the new class's defaults. DDIM's clipping
    to [-1, 1] is thresholding with a largest value of 1 in DPM-Solver++; Euler has neither.
    """
    if name is None or config.get("_class_name") == _CLASSES[name]:
        return dict(config)
    changed = {**config, "_class_name": _CLASSES[name]}
    if name is SchedulerName.DPM_SOLVER and _clips_to_one(config):
        changed |= {"thresholding": True, "sample_max_value": 1.0}
    return changed


def _clips_to_one(config: Mapping[str, Any]) -> bool:
    clips = config.get("clip_sample") is True and not config.get("thresholding")
    return clips and config.get("clip_sample_range", 1.0) == 1
