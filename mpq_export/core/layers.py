"""Quantised layers in torch: how a layer becomes a matrix, and its frozen form."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .integer_reference import ConvGeometry, PackedLayer
from .planes import unpack

Quantizable = nn.Linear | nn.Conv2d
"""Modules that can be quantised."""


@dataclass
class StepIndex:
    """The row of the activation tables that is in force; one object shared by a model's layers."""

    value: int = 0


def unsupported_reason(module: Quantizable) -> str | None:
    """Why a Linear or Conv2d cannot be quantised, or None if it can."""
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding mode '{module.padding_mode}' is not zero padding"
    return None


def geometry_of(module: Quantizable) -> ConvGeometry | None:
    """The geometry of a Conv2d; None for a Linear."""
    if not isinstance(module, nn.Conv2d):
        return None
    (kh, kw), (dh, dw) = module.kernel_size, module.dilation
    vertical, horizontal = dh * (kh - 1), dw * (kw - 1)
    if module.padding == "same":
        top, left = vertical // 2, horizontal // 2
        pads = (top, left, vertical - top, horizontal - left)
    elif isinstance(module.padding, str):
        pads = (0, 0, 0, 0)
    else:
        top, left = module.padding
        pads = (top, left, top, left)
    sh, sw = module.stride
    return ConvGeometry((kh, kw), (sh, sw), pads, (dh, dw), module.groups)


def weight_matrix(module: Quantizable) -> torch.Tensor:
    """The weight as float32 ``[O, K]``; a convolution's columns in OHWI order (kh, kw, channel)."""
    weight = module.weight.detach().float()
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight


class FrozenLayer(nn.Module):
    """A packed layer that computes the contract's integers in torch.

    Sums are float64, in which they are exact; the epilogue is float32, one rounding per operation,
    so the output equals :func:`~mpq_export.core.integer_reference.run_layer` bit for bit.
    """

    weight_integers: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor
    act_scale: torch.Tensor
    act_zero_point: torch.Tensor
    input_factor: torch.Tensor
    input_shift: torch.Tensor

    def __init__(self, layer: PackedLayer, step: StepIndex) -> None:
        super().__init__()
        self.step, self.conv, self.act_bits = step, layer.conv, layer.act_bits
        matrix = unpack(layer.weight)
        channel = (-1,) if layer.conv is None else (-1, 1, 1)
        weight = torch.from_numpy(matrix.integers())
        if layer.conv is not None:
            kh, kw = layer.conv.kernel_shape
            weight = weight.unflatten(1, (kh, kw, -1)).permute(0, 3, 1, 2)
        self.register_buffer("weight_integers", weight.contiguous())
        for name, value in (
            ("weight_scale", matrix.scale),
            ("bias", layer.bias),
            ("input_factor", layer.input_factor),
            ("input_shift", np.exp2(layer.input_shift.astype(np.float64))),
        ):
            self.register_buffer(name, torch.from_numpy(value.copy()).reshape(channel))
        self.register_buffer("act_scale", torch.from_numpy(layer.act_scale.copy()))
        self.register_buffer(
            "act_zero_point", torch.from_numpy(layer.act_zero_point.astype(np.float32))
        )

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Activation codes as float32, whole numbers in 0 .. 2**act_bits - 1, shape of ``x``."""
        step = slice(self.step.value, self.step.value + 1)
        value = ((x.float() * self.input_factor) / self.act_scale[step]).round()
        value = value + self.act_zero_point[step]
        return torch.where(value.isnan(), 0.0, value).clamp(0, 2**self.act_bits - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Linear: ``[..., K]`` to ``[..., O]``; convolution: NCHW to NCHW; type of ``x``."""
        step = slice(self.step.value, self.step.value + 1)
        x_int = (self.codes(x) - self.act_zero_point[step]).double() * self.input_shift
        weight = self.weight_integers.double()
        if self.conv is None:
            acc = nn.functional.linear(x_int, weight)
        else:
            top, left, bottom, right = self.conv.pads
            padded = nn.functional.pad(x_int, (left, right, top, bottom))
            acc = nn.functional.conv2d(
                padded, weight, None, self.conv.strides, 0, self.conv.dilations, self.conv.group
            )
        return (acc.float() * (self.act_scale[step] * self.weight_scale) + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        """Kind, weight shape and activation bits, for printed models."""
        kind = "linear" if self.conv is None else "conv"
        return f"{kind}, weight={list(self.weight_integers.shape)}, act_bits={self.act_bits}"


def replace_module(model: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put ``replacement`` where the module ``name`` (dotted path) stood."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules that shares every tensor with it."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
