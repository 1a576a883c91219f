"""A diffusers model around tensors that already lie in memory or in a mapped file.

The model is built without storage and takes the tensors as they are, so that loading needs the
checkpoint's own size, and a config alone decides over no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..empty_model import build_empty_model
from ..errors import CheckpointError
from .naming import modernised
from .state import Tensors, first_line, some


def build_model(config: Mapping[str, Any], tensors: Tensors, where: Path) -> nn.Module:
    """The model of a config with these weights, in float32, for evaluation.

    Raises :class:`CheckpointError` if the two do not fit, or a value is not finite.
    """
    elements = sum(tensor.numel() for tensor in tensors.values())
    unfit = CheckpointError("The config builds no model", where=where, fix="Check config.json")
    model = build_empty_model(config, len(tensors), elements, unfit)
    own = model.state_dict()
    tensors = modernised(tensors, model, where)
    _require_fit(own, tensors, where)
    state = {name: _as_float32(tensors[name], name, where) for name in own}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            "A tensor has the wrong shape", where=where, why=first_line(error)
        ) from error
    return model.eval().requires_grad_(False).float()


def _require_fit(own: Mapping[str, Any], tensors: Mapping[str, Any], where: Path) -> None:
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            "The weights do not fit the config",
            where=where,
            why=f"{len(missing)} tensors are missing ({some(missing)}), "
            f"{len(unexpected)} are not expected ({some(unexpected)})",
            fix="Check that config.json belongs to these weights",
        )


def _as_float32(tensor: torch.Tensor, name: str, where: Path) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(
            "The checkpoint has weights that are not floating-point numbers",
            where=where,
            why=f"{name} is {str(tensor.dtype).removeprefix('torch.')}",
            fix="Give the checkpoint from before it was quantised",
        )
    wide = tensor.float()
    if not bool(wide.isfinite().all()):
        raise CheckpointError(
            "The checkpoint has values that are not finite", where=where, why=f"In {name}"
        )
    return wide
