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

from ..architectures import MAX_WIDTH, architecture_of
from ..errors import CheckpointError
from .naming import modernised
from .state import Tensors, first_line, some

_MAX_TABLE = 1 << 27
_LAYER_COUNTS = (
    ("num_layers",),
    ("layers_per_block",),
    ("transformer_layers_per_block", "reverse_transformer_layers_per_block"),
)


def build_model(config: Mapping[str, Any], tensors: Tensors, where: Path) -> nn.Module:
    """The model of a config with these weights, in float32, for evaluation.

    Raises :class:`CheckpointError` if the two do not fit, or a value is not finite.
    """
    import diffusers
    from accelerate import init_empty_weights

    cls = getattr(diffusers, architecture_of(config).class_name)
    _require_plausible(config, len(tensors), where)
    _require_small_tables(config, where)
    try:
        with init_empty_weights(include_buffers=False):
            model: nn.Module = cls.from_config(config)
    except Exception as error:  # a config that fits no model raises anything
        raise CheckpointError(
            "The config builds no model",
            where=where,
            why=first_line(error),
            fix="Check config.json",
        ) from error
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


def _require_plausible(config: Mapping[str, Any], count: int, where: Path) -> None:
    """Every layer has a tensor: a config that asks for more layers is refused before they exist."""
    widths = _numbers(config.get("block_out_channels"))
    layers = max(1, len(widths))
    for keys in _LAYER_COUNTS:
        layers *= max([1, *(number for key in keys for number in _numbers(config.get(key)))])
    if layers > count:
        why = f"It asks for at least {layers} layers, and there are {count} tensors"
    elif widths and max(widths) > MAX_WIDTH:
        why = f"It asks for {max(widths)} channels"
    else:
        return
    raise CheckpointError(
        "The weights do not fit the config",
        where=where,
        why=why,
        fix="Check that config.json belongs to these weights",
    )


def _require_small_tables(config: Mapping[str, Any], where: Path) -> None:
    """Transformers compute a table of positions when they are built, by their config alone."""
    architecture = architecture_of(config)
    if "Transformer" not in architecture.class_name:
        return
    _, height, width = architecture.sample_shape(config)
    defaults = {"patch_size": 2, "num_attention_heads": 16, "attention_head_dim": 72}
    patch, heads, head = (config.get(key) or default for key, default in defaults.items())
    if any(type(number) is not int or number < 1 for number in (patch, heads, head)):
        why = f"{', '.join(defaults)} are whole numbers"
    elif (entries := (height // patch) * (width // patch) * heads * head) > _MAX_TABLE:
        why = f"Its table of positions would have {entries} entries"
    else:
        return
    raise CheckpointError(
        "The config builds no model", where=where, why=why, fix="Check config.json"
    )


def _numbers(value: Any) -> list[int]:
    """The whole numbers in a config's value: one, a list of them, or a list of lists."""
    parts = value if isinstance(value, list | tuple) else [value]
    flat = [n for part in parts for n in (part if isinstance(part, list | tuple) else [part])]
    return [number for number in flat if isinstance(number, int)]


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
