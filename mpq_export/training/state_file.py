"""A training run on disk: what is needed to go on exactly where it was, and nothing that executes.

One safetensors file: trained parameters and the optimiser's two moments of each by name, what the
relation loss remembers, how errors are weighed, and the log; in its metadata whose run
it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..errors import UserError
from ..tensor_files import staged_tensor_file
from .error_bands import NUM_BANDS
from .log import UpdateRecord

_LOG, _PARAMETER, _RELATION, _MOMENTS = "log", "parameter", "relation", ("exp_avg", "exp_avg_sq")
_ERROR_WEIGHTS = "error_weights"
_STEP_LOSSES = "step_losses"
_RUN = "run"
_FIX = "Delete it to train from the start again"


class TrainingStateError(UserError):
    """A saved training run that cannot be read, or is not of this run."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during a run.

    Attributes:
        parameters: trained parameters by name, float32.
        moments: the optimiser's first and second moment of each, of their shapes; empty before the
            first update.
        relation: what the relation loss remembers.
        error_weights: of coarse and fine squared errors at each step of the sampler, float32
            ``[S, 2]``; measured before the first update.
        records: one per update that was done.
        run: a name of the run, which no other has.
        step_losses: what the adaptive weights of steps follow, float32 ``[2, S]``; None where the
            recipe has none.
    """

    parameters: Mapping[str, torch.Tensor]
    moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    relation: Mapping[str, torch.Tensor]
    error_weights: torch.Tensor
    records: tuple[UpdateRecord, ...]
    run: str = ""
    step_losses: torch.Tensor | None = None


def write_state(path: Path, state: TrainingState) -> None:
    """Write atomically; raises UserError where the file cannot be written."""
    from safetensors.torch import save_file

    tensors = {f"{_PARAMETER}.{name}": value for name, value in state.parameters.items()}
    for name, moments in state.moments.items():
        for key, value in zip(_MOMENTS, moments, strict=True):
            tensors[f"{key}.{name}"] = value
    tensors |= {f"{_RELATION}.{name}": value for name, value in state.relation.items()}
    tensors[_ERROR_WEIGHTS] = state.error_weights
    if state.step_losses is not None:
        tensors[_STEP_LOSSES] = state.step_losses
    rows = [astuple(record) for record in state.records]
    tensors[_LOG] = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(UpdateRecord)))
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with staged_tensor_file(path) as stage:
        save_file(plain, stage, {_RUN: state.run})


def read_state(path: Path) -> TrainingState:
    """Read what :func:`write_state` wrote; raises TrainingStateError if it is anything else."""
    from safetensors import safe_open

    with blamed_on(path):
        try:
            with safe_open(path, framework="pt") as file:
                run = (file.metadata() or {}).get(_RUN, "")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise TrainingStateError(
                "The training state cannot be read", why=str(error), fix=_FIX
            ) from error
        records = _records(tensors.pop(_LOG, None))
        error_weights = _error_weights(tensors.pop(_ERROR_WEIGHTS, None))
        step_losses = tensors.pop(_STEP_LOSSES, None)
        if step_losses is not None:
            require_finite(step_losses, _STEP_LOSSES)
            require(bool((step_losses >= 0).all()), "A step's loss is negative")
        parts: dict[str, dict[str, torch.Tensor]] = {
            key: {} for key in (_PARAMETER, *_MOMENTS, _RELATION)
        }
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            require(kind in parts and bool(name), f"It has a tensor {key!r}")
            parts[kind][name] = value
        parameters, first, second = (parts[key] for key in (_PARAMETER, *_MOMENTS))
        owners = parameters.keys() if records else set()
        require(first.keys() == second.keys() == owners, "It lacks moments, or has too many")
        for name, value in parameters.items():
            require_finite(value, name)
        for name in first:
            for value in (first[name], second[name]):
                require(value.shape == parameters[name].shape, f"The moments of {name} do not fit")
                require_finite(value, f"a moment of {name}")
            require(bool((second[name] >= 0).all()), f"A square of {name} is negative")
        moments = {name: (first[name], second[name]) for name in first}
        return TrainingState(
            parameters, moments, parts[_RELATION], error_weights, records, run, step_losses
        )


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """A TrainingStateError of the block names the file that the state was read from."""
    try:
        yield
    except TrainingStateError as error:
        if error.where:
            raise
        raise TrainingStateError(
            error.what, where=path, why=error.why, fix=error.fix
        ) from error.__cause__


def require(holds: bool, why: str) -> None:
    """Raise TrainingStateError, telling why, unless something holds of a state."""
    if not holds:
        raise TrainingStateError("The training state is damaged", why=why, fix=_FIX)


def require_finite(value: torch.Tensor, name: str) -> None:
    """Raise TrainingStateError unless a state's tensor is of finite float32 numbers."""
    require(value.dtype == torch.float32, f"The type of {name} is {value.dtype}")
    require(bool(value.isfinite().all()), f"A value of {name} is not finite")


def _error_weights(weights: torch.Tensor | None) -> torch.Tensor:
    if weights is None or weights.ndim != 2 or weights.shape[1] != NUM_BANDS:
        raise TrainingStateError(
            "The training state is damaged", why="It has no weights of errors", fix=_FIX
        )
    require_finite(weights, _ERROR_WEIGHTS)
    require(bool((weights > 0).all()), "An error has no weight")
    return weights


def _records(log: torch.Tensor | None) -> tuple[UpdateRecord, ...]:
    width = len(fields(UpdateRecord))
    if log is None or log.dtype != torch.float64 or log.ndim != 2 or log.shape[1] != width:
        raise TrainingStateError("The training state is damaged", why="It has no log", fix=_FIX)
    require(bool(log.isfinite().all()), "A value of the log is not finite")
    numbers = torch.arange(1, len(log) + 1, dtype=log.dtype)
    require(torch.equal(log[:, 0], numbers), "Its log does not count the updates from 1")
    return tuple(UpdateRecord(int(row[0]), *row[1:]) for row in log.tolist())
