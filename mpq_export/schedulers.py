"""Schedulers by their diffusers config; the timesteps that index activation tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import CheckpointError, UserError
from .samplers.options import wrong_type

MAX_NUMBER = 10**6
"""Largest number in a scheduler config: schedulers make tables as long as their numbers say."""


def build_scheduler(config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler a ``scheduler_config.json`` describes."""
    import diffusers

    name = str(config.get("_class_name"))
    cls = _public_name(diffusers, name)
    if not (
        isinstance(cls, type)
        and issubclass(cls, diffusers.SchedulerMixin)
        and hasattr(cls, "from_config")
        and hasattr(cls, "scale_model_input")
    ):
        raise CheckpointError(
            f"'{name}' is not a diffusers scheduler",
            where="scheduler_config.json",
            fix="Use a scheduler config saved by diffusers, for example of DDIMScheduler",
        )
    if fault := wrong_type(config):
        raise CheckpointError(
            f"The scheduler's '{fault.option}' is of a wrong type",
            where="scheduler_config.json",
            why=fault.why,
        )
    for key, value in config.items():
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            raise CheckpointError(
                f"The scheduler's {key} is too large",
                where="scheduler_config.json",
                why=f"No number is above {MAX_NUMBER}",
            )
    try:
        return cls.from_config(dict(config))
    except Exception as error:  # values that fit no scheduler raise anything
        raise _unusable(error) from error


@contextmanager
def scheduler_at_work() -> Iterator[None]:
    """Around calls of a scheduler: whatever else it raises becomes a :class:`CheckpointError`.

    It looks at most of its options only when it uses them.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise _unusable(error) from error


def _public_name(package: Any, name: str) -> Any:
    """What a package calls ``name``, or None; diffusers imports lazily, which may fail."""
    try:
        return getattr(package, name, None)
    except Exception:
        return None


def _unusable(error: Exception) -> CheckpointError:
    return CheckpointError(
        "The scheduler cannot be used",
        where="scheduler_config.json",
        why=str(error).strip().partition("\n")[0] or type(error).__name__,
    )


@dataclass(frozen=True)
class SamplingSchedule:
    """The steps of a sampler and the rows of the activation tables they use.

    Attributes:
        timesteps: int32 ``[T]``, the whole timesteps that are visited, each once, in the order of
            the first visit.
        entries: int64 ``[S]``, the index in ``timesteps`` of every step. S exceeds T where a
            sampler evaluates a timestep twice (PNDM, Heun) or two timesteps round to one.
        exact: float64 ``[T]``, the first of the visited timesteps that ``timesteps`` rounds.
    """

    timesteps: np.ndarray
    entries: np.ndarray
    exact: np.ndarray


def sampling_schedule(config: Mapping[str, Any], num_steps: int) -> SamplingSchedule:
    """The timesteps that the scheduler visits in ``num_steps`` steps."""
    scheduler = build_scheduler(config)
    limit = getattr(scheduler.config, "num_train_timesteps", None)
    if type(limit) is not int:
        raise CheckpointError(
            "The scheduler does not say how many timesteps it was trained with",
            where="scheduler_config.json",
            why=f"num_train_timesteps is {limit!r}",
        )
    if not 1 <= num_steps <= limit:
        raise CheckpointError(
            f"{num_steps} sampling steps are not possible",
            where="number of steps",
            why=f"The scheduler was trained with {limit} timesteps",
            fix=f"Choose 1 to {limit}",
        )
    try:
        scheduler.set_timesteps(num_steps)
        visited = np.asarray(scheduler.timesteps, np.float64)
        if not np.all(np.abs(visited) <= MAX_NUMBER):
            raise ValueError("it visits timesteps that are not finite, or too large")
    except Exception as error:
        raise _unusable(error) from error
    whole, first, back = np.unique(
        np.rint(visited).astype(np.int32), return_index=True, return_inverse=True
    )
    if len(visited) == 0 or len(whole) < len(np.unique(visited)) / 2 or whole[0] < 0:
        raise CheckpointError(
            f"{type(scheduler).__name__} does not visit whole timesteps",
            where="scheduler_config.json",
            why="Every sampler step has an activation table that is found by its timestep",
            fix="Calibrate with a DDIM, Euler, PNDM or DPM-Solver++ config (--scheduler); "
            "other schedulers can still sample from the result",
        )
    order = np.argsort(first)
    rank = np.argsort(order)
    return SamplingSchedule(whole[order], rank[back], visited[first[order]])


def nearest_step(timesteps: np.ndarray, timestep: float) -> int:
    """Index of the entry of ``timesteps`` nearest to ``timestep``; ties go to the lower index."""
    return int(np.argmin(np.abs(timesteps.astype(np.float64) - timestep)))
