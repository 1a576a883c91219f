"""Which layers are quantised, at which bits, and what stays in floating point and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..architectures import Architecture
from ..core.layers import Quantizable, geometry_of, unsupported_reason
from ..core.planes import MAX_COLUMNS
from ..precision import W8A8, BitSpec

_NORMALISATIONS = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm")


@dataclass(frozen=True)
class LayerPlan:
    """Bits of every quantised layer, in the model's order, and the reasons for exceptions.

    Attributes:
        bits: layer name to its bits.
        eight_bit: layers at W8A8 although fewer bits were asked for, with the reason.
        kept: modules with parameters that stay in floating point, with the reason.
    """

    bits: Mapping[str, BitSpec]
    eight_bit: Mapping[str, str]
    kept: Mapping[str, str]


def plan_layers(model: nn.Module, architecture: Architecture, bits: BitSpec) -> LayerPlan:
    """Every Conv2d and Linear takes the requested bits, except the architecture's 8-bit layers."""
    chosen: dict[str, BitSpec] = {}
    eight_bit: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        why = _why_kept(module)
        if why is not None:
            kept[name] = why
            continue
        reason = architecture.eight_bit_reason(name)
        if reason is not None and bits != W8A8:
            eight_bit[name] = reason
        chosen[name] = W8A8 if reason is not None else bits
    return LayerPlan(chosen, eight_bit, kept)


def _why_kept(module: nn.Module) -> str | None:
    if not isinstance(module, Quantizable):
        kind = type(module).__name__
        if any(norm in kind for norm in _NORMALISATIONS):
            return "normalisation"
        return "embedding table" if isinstance(module, nn.Embedding) else f"{kind} is not a matrix"
    conv = geometry_of(module)
    columns = module.weight[0].numel()
    if columns > MAX_COLUMNS:
        return f"{columns} columns could overflow the int32 sum ({MAX_COLUMNS} are safe)"
    if conv is None and module.weight.dim() != 2:
        return "weight is not a matrix"
    return unsupported_reason(module)
