"""What a bundle remembers of the weights that it was made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class WeightsRecord:
    """How many parameters a model has, and the sha256 of all that its state holds."""

    parameters: int
    sha256: str


def record_weights(model: nn.Module) -> WeightsRecord:
    """The record of a float32 model: names, shapes and values, in the order of names, whatever kind
    of file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(memoryview(value.contiguous().numpy().reshape(-1)).cast("B"))
    return WeightsRecord(sum(p.numel() for p in model.parameters()), digest.hexdigest())
