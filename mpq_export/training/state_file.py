"""A training run on disk: what is needed to go on exactly where it was, and nothing that executes.

One safetensors file: trained parameters and the optimiser's two moments of each by name, what the
relation loss remembers, the log, and the number of updates done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..errors import UserError
from ..tensor_files import staged_tensor_file
from .log import UpdateRecord

_LOG, _MOMENTS = "log", ("exp_avg", "exp_avg_sq")


class TrainingStateError(UserError):
    """A saved training run that cannot be read, or is not of this run."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during a run.

    Attributes:
        parameters: trained parameters by name.
        moments: the optimiser's first and second moment of each; empty before the first update.
        relation: what the relation loss remembers.
        records: one per update that was done.
    """

    parameters: Mapping[str, torch.Tensor]
    moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    relation: Mapping[str, torch.Tensor]
    records: tuple[UpdateRecord, ...]


def write_state(path: Path, state: TrainingState) -> None:
    """Write atomically."""
    from safetensors.torch import save_file

    tensors = {f"parameter.{name}": value for name, value in state.parameters.items()}
    for name, moments in state.moments.items():
        for key, value in zip(_MOMENTS, moments, strict=True):
            tensors[f"{key}.{name}"] = value
    tensors |= {f"relation.{name}": value for name, value in state.relation.items()}
    rows = [astuple(record) for record in state.records]
    tensors[_LOG] = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(UpdateRecord)))
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with staged_tensor_file(path) as stage:
        save_file(plain, stage)


def read_state(path: Path) -> TrainingState:
    """Read what :func:`write_state` wrote; raises TrainingStateError if it is anything else."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        rows = tensors.pop(_LOG).tolist()
        records = tuple(UpdateRecord(int(row[0]), *row[1:]) for row in rows)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise TrainingStateError(
            "The training state cannot be read",
            where=path,
            why=str(error),
            fix="Delete it to train from the start again",
        ) from error
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parts.setdefault(kind, {})[name] = value
    first, second = (parts.get(key, {}) for key in _MOMENTS)
    if first.keys() != second.keys():
        raise TrainingStateError("The training state is not whole", where=path)
    moments = {name: (first[name], second[name]) for name in first}
    return TrainingState(parts.get("parameter", {}), moments, parts.get("relation", {}), records)
