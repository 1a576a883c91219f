"""Samplers by the diffusers class that a ``scheduler_config.json`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ..errors import CheckpointError
from .ddim import Ddim
from .dpm_solver import DpmSolver
from .euler import Euler, EulerAncestral
from .noise_schedule import ScheduleConfig
from .sampler import Sampler

_SAMPLERS: dict[str, Callable[[Mapping[str, Any], int], Sampler]] = {
    "DDIMScheduler": Ddim.open,
    "DPMSolverMultistepScheduler": DpmSolver.open,
    "EulerDiscreteScheduler": Euler.open,
    "EulerAncestralDiscreteScheduler": EulerAncestral.open,
}
_WHERE = "scheduler_config.json"
_FIX = "Choose another with --scheduler, or install diffusers: pip install 'mpq-export[cpu]'"


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether there is a sampler for the class of a scheduler config."""
    name = config.get("_class_name")
    return isinstance(name, str) and name in _SAMPLERS


def open_sampler(config: Mapping[str, Any], num_steps: int) -> Sampler:
    """The sampler of a diffusers scheduler config, prepared for ``num_steps`` steps.

    Raises :class:`CheckpointError` on a scheduler, an option or a number of steps that it cannot
    follow exactly.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in _SAMPLERS:
        raise CheckpointError(
            f"The scheduler '{name}' is not available without diffusers",
            where=_WHERE,
            why=f"Available: {', '.join(_SAMPLERS)}",
            fix=_FIX,
        )
    options = _given_options(config)
    try:
        count = ScheduleConfig.model_validate(options).num_train_timesteps
        _require_steps(num_steps, count)
        with np.errstate(divide="ignore", invalid="ignore"):
            sampler = _SAMPLERS[name](options, num_steps)
    except ValidationError as error:
        raise _refused_option(name, error) from error
    _require_visits(sampler.timesteps, count, num_steps)
    return sampler


def _given_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Diffusers ignores the keys that a config lists as defaults of the class that wrote it."""
    defaults = config.get("_use_default_values", [])
    ignored = defaults if isinstance(defaults, list) else []
    return {key: value for key, value in config.items() if key not in ignored}


def _require_steps(num_steps: int, count: int) -> None:
    if not 1 <= num_steps <= count:
        raise CheckpointError(
            f"{num_steps} sampling steps are not possible",
            where="number of steps",
            why=f"The scheduler was trained with {count} timesteps",
            fix=f"Choose 1 to {count}",
        )


def _require_visits(timesteps: NDArray[Any], count: int, num_steps: int) -> None:
    """Where its own rounding leads diffusers out of the training's range, or to start twice."""
    inside = len(timesteps) > 0 and np.all((timesteps >= 0) & (timesteps < count))
    if not inside or np.count_nonzero(timesteps == timesteps[0]) > 1:
        raise CheckpointError(
            f"The scheduler cannot take {num_steps} steps",
            where=_WHERE,
            why=f"Its timesteps are not within 0 to {count - 1}, or it would start twice",
            fix="Choose another number of steps",
        )


def _refused_option(name: str, error: ValidationError) -> CheckpointError:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"]) or "options"
    given = "" if isinstance(first["input"], dict) else f" = {str(first['input'])[:60]}"
    return CheckpointError(
        f"{name} with {option}{given} is not available without diffusers",
        where=_WHERE,
        why=first["msg"],
        fix=_FIX,
    )
