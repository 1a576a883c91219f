"""From the names in a file to the names of a diffusers model.

Wrappers put a prefix before every name; training scripts keep other models beside the denoiser;
old and fused attention layers have other projections than today's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .state import State, Tensors, left_out

_WRAPPERS = ("module.", "_orig_mod.", "model.", "online_model.", "net.", "denoiser.")
_DENOISERS = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")
_FUSED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}


def denoiser_state(state: State) -> State:
    """The denoiser's tensors without prefixes; what lies beside it is left out and noted."""
    tensors = _unwrapped(state.tensors)
    for prefix in _DENOISERS:
        own = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if own:
            others = [name for name in tensors if not name.startswith(prefix)]
            return state.then(_unwrapped(own), *([left_out(others)] if others else []))
    return state.then(tensors)


def _unwrapped(tensors: Tensors) -> Tensors:
    while prefix := _common_wrapper(tensors):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _common_wrapper(tensors: Mapping[str, Tensor]) -> str | None:
    """The wrapper's prefix that every name carries; wrappers may be nested in any order."""
    if not tensors:
        return None
    return next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None)


def modernised(tensors: Tensors, model: nn.Module, where: Path) -> Tensors:
    """Tensors under the names that attention projections have in ``model``.

    Old names (``query``, ``key``, ``value``, ``proj_attn``) are renamed by diffusers. Fused
    projections, saved after ``fuse_qkv_projections``, are dropped where they repeat the split ones,
    else split.
    """
    tensors = dict(tensors)
    count = len(tensors)
    model._fix_state_dict_keys_on_load(tensors)  # type: ignore[operator]
    if len(tensors) < count:
        raise CheckpointError(
            "Attention projections are in the file under old and new names", where=where
        )
    own = {name: value.shape for name, value in model.state_dict().items()}
    for name in [name for name in tensors if name not in own]:
        if split := _split_names(name):
            _unfuse(tensors, name, {part: own[part] for part in split if part in own}, where)
    return tensors


def _split_names(fused: str) -> tuple[str, ...]:
    layer, _, kind = fused.rpartition(".")
    parent, _, projection = layer.rpartition(".")
    return tuple(f"{parent}.{name}.{kind}" for name in _FUSED.get(projection, ()))


def _unfuse(tensors: Tensors, fused: str, parts: Mapping[str, torch.Size], where: Path) -> None:
    value = tensors[fused]
    rows = [shape[0] for shape in parts.values()]
    if not parts or value.ndim == 0 or sum(rows) != value.shape[0]:
        return  # not a fused projection of this model: reported as a name that is not expected
    del tensors[fused]
    for part, rows_of_part in zip(parts, value.split(rows), strict=True):
        if part in tensors and not torch.equal(tensors[part], rows_of_part):
            raise CheckpointError(
                "A fused projection differs from the split one",
                where=where,
                why=f"{fused} and {part} are both in the file, with other values",
                fix="Save the model again after unfuse_qkv_projections()",
            )
        tensors[part] = rows_of_part
