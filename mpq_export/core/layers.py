"""Quantised layers in torch: how a layer becomes a matrix, and its frozen form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .channel_parts import parts_by_module
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


class ChannelSum(nn.ModuleList):
    """A layer that is the sum of its parts, each of some of the input channels."""

    def __init__(
        self, parts: Sequence[nn.Module], channels: Sequence[NDArray[np.int32]], is_conv: bool
    ) -> None:
        """Args: ``channels`` of every part, int32, ascending."""
        super().__init__(parts)
        self._axis = 1 if is_conv else -1
        self._channels = [_Channels.of(own) for own in channels]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer."""
        first, *others = (
            part(self._chosen(x, own)) for part, own in zip(self, self._channels, strict=True)
        )
        total: torch.Tensor = first
        for output in others:
            total = total + output
        return total

    def _chosen(self, x: torch.Tensor, channels: _Channels) -> torch.Tensor:
        if channels.indices is None:
            return x.narrow(self._axis, channels.first, channels.count)
        return x.index_select(self._axis, channels.indices.to(x.device))


@dataclass(frozen=True)
class _Channels:
    """``count`` channels from ``first`` on, or those of ``indices`` where these leave some out. As
    numbers, since a tracer does not look into tensors."""

    first: int
    count: int
    indices: torch.Tensor | None

    @classmethod
    def of(cls, channels: NDArray[np.int32]) -> _Channels:
        first, count = int(channels[0]), len(channels)
        together = int(channels[-1]) - first + 1 == count
        return cls(first, count, None if together else torch.from_numpy(channels.astype(np.int64)))


def install_layers(
    model: nn.Module,
    layers: Mapping[str, PackedLayer],
    channels: Mapping[str, NDArray[np.int32]],
    make_layer: Callable[[str, PackedLayer], nn.Module],
) -> None:
    """Put ``make_layer(name, layer)`` into the places of a model's quantised modules, sums of them
    where a module has parts."""
    parts = parts_by_module({name: channels[name] for name in layers if name in channels})
    for name, layer in layers.items():
        if name not in channels:
            replace_module(model, name, make_layer(name, layer))
    for module, names in parts.items():
        made = [make_layer(name, layers[name]) for name in names]
        own = [channels[name] for name in names]
        replace_module(model, module, ChannelSum(made, own, layers[names[0]].conv is not None))


def part_of(module: Quantizable, channels: NDArray[np.int32], has_bias: bool) -> Quantizable:
    """The full-precision layer that some input channels of a layer go through; of one group."""
    chosen = torch.from_numpy(channels.astype(np.int64))
    part = copy.copy(module)
    part._parameters = dict(module._parameters)
    part.weight = nn.Parameter(module.weight.detach()[:, chosen], requires_grad=False)
    if not has_bias:
        part.bias = None
    return part


def part_weights(weights: torch.Tensor, taps: int, channels: NDArray[np.int32]) -> torch.Tensor:
    """The columns ``[O, taps * len(channels)]`` of a matrix ``[O, taps * I]`` that read some of its
    channels, in the order of the whole's."""
    chosen = torch.from_numpy(channels.astype(np.int64))
    columns: torch.Tensor = weights.unflatten(1, (taps, -1))
    return columns[:, :, chosen].flatten(1)


def replace_module(model: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put ``replacement`` where the module ``name`` (dotted path) stood."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules that shares every tensor with it."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
