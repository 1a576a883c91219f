"""A quantised layer under training: what it computes is what will be deployed.

Codes, integers and epilogue are those of the contract; gradients pass the roundings straight
through. Sums are float32: exactly the deployed ones while they stay below 2**24, which every
4-bit layer of usual width does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .integer_reference import ConvGeometry, PackedLayer, column_factors
from .low_rank import LowRankBranch
from .planes import ContractError, PlaneMatrix, pack, unpack
from .straight_through import activation_integers, epilogue, nearest_codes, rounded
from .trained_levels import TrainedLevels, keep_normal
from .weight_form import WeightForm


@dataclass
class BatchEntries:
    """The rows of the activation tables that the images of a batch use; one object for a model.

    ``value`` is int64 ``[B]``.
    """

    value: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Entries of the rows of ``x``, int64 ``[N]``; N is a multiple of B, image by image."""
        per_image, rest = divmod(len(x), len(self.value))
        if rest or not per_image:
            raise ContractError(f"{len(x)} rows do not belong to {len(self.value)} images")
        return self.value if per_image == 1 else self.value.repeat_interleave(per_image)


class TrainedLayer(nn.Module):
    """A Linear or Conv2d whose quantised form is trained.

    Attributes:
        weight: float32 ``[O, K]``, smoothed (multiplied by ``2^-shift / input_factor``), columns in
            OHWI order; without gradient where a branch is trained in its place.
        branch: low-rank addition to the unsmoothed weight, or None.
        levels: what the rows are rounded to.
        bias: float32 ``[O]``.
        log_act_scale: float32 ``[T]``, log of the change of the activation scales.
        act_zero_point: float32 ``[T]``, rounded where it is used.
    """

    gain: torch.Tensor
    input_factor: torch.Tensor
    input_shift: torch.Tensor
    first_act_scale: torch.Tensor

    def __init__(
        self,
        start: PackedLayer,
        weight: torch.Tensor,
        form: WeightForm,
        bits: int,
        entries: BatchEntries,
        branch: LowRankBranch | None = None,
    ) -> None:
        """Args: ``weight`` ``[O, K]`` before smoothing; ``start`` the layer as first quantised."""
        super().__init__()
        self.entries, self.conv, self.act_bits = entries, start.conv, start.act_bits
        # Shifts give back of the factors what is a power of two.
        factor = start.input_factor * np.exp2(start.input_shift.astype(np.float32))
        gain = torch.from_numpy(column_factors(1 / factor, start.conv, start.weight.rows).copy())
        self.is_smoothed = bool(np.any(start.input_factor != 1))
        self.is_shifted = bool(np.any(start.input_shift != 0))
        self.register_buffer("gain", gain)
        channel = (-1,) if start.conv is None else (-1, 1, 1)
        self.register_buffer("input_factor", torch.from_numpy(start.input_factor.copy()))
        self.register_buffer("input_shift", torch.from_numpy(start.input_shift.copy()))
        self._channel = channel
        self.has_gain = self.is_smoothed or self.is_shifted
        self.weight = nn.Parameter(weight * gain if self.has_gain else weight.clone())
        self.branch = branch
        self.levels = TrainedLevels(unpack(start.weight), form, bits)
        self.bias = nn.Parameter(torch.from_numpy(start.bias.copy()))
        self.register_buffer("first_act_scale", torch.from_numpy(start.act_scale.copy()))
        self.log_act_scale = nn.Parameter(torch.zeros(len(start.act_scale)))
        self.act_zero_point = nn.Parameter(
            torch.from_numpy(start.act_zero_point.astype(np.float32))
        )

    def real_weight(self) -> torch.Tensor:
        """What is rounded, float32 ``[O, K]``: the smoothed weight with its branch."""
        if self.branch is None:
            return self.weight
        delta: torch.Tensor = self.branch()
        return self.weight + (delta * self.gain if self.has_gain else delta)

    def act_scale(self) -> torch.Tensor:
        """Float32 ``[T]``, with gradient."""
        return self.first_act_scale * self.log_act_scale.exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Linear: ``[B, ..., K]`` to ``[B, ..., O]``; convolution: NCHW to NCHW; type of ``x``."""
        # Mixed precision would round levels and sums. TensorFloat-32 does not: the integers fit.
        with torch.autocast(x.device.type, enabled=False):
            return self._forward(x)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        entries = self.entries.of(x)
        per_image = (-1, *(1 for _ in x.shape[1:]))
        scale = self.act_scale()[entries].view(per_image)
        zero_point = rounded(self.act_zero_point)[entries].view(per_image)
        value = x.float()
        if self.is_smoothed:
            value = value * self.input_factor.view(self._channel)
        x_int = activation_integers(value, scale, zero_point, self.act_bits)
        if self.is_shifted:
            x_int = x_int * torch.exp2(self.input_shift.float()).view(self._channel)
        w_int = self.levels(self.real_weight())
        combined = scale * self.levels.scale().view(self._channel)
        return epilogue(self._sums(x_int, w_int), combined, self.bias.view(self._channel)).to(
            x.dtype
        )

    def _sums(self, x_int: torch.Tensor, w_int: torch.Tensor) -> torch.Tensor:
        if self.conv is None:
            return nn.functional.linear(x_int, w_int)
        conv = self.conv
        # Columns are in OHWI order: torch's channels-last, so that convolutions copy nothing.
        weight = w_int.unflatten(1, (*conv.kernel_shape, -1)).permute(0, 3, 1, 2)
        x_int, pads = _padded(x_int, conv)
        return nn.functional.conv2d(
            x_int, weight, None, conv.strides, pads, conv.dilations, conv.group
        )

    @torch.no_grad()
    def project(self) -> None:
        """After an update: back into the ranges of the contract."""
        self.levels.project()
        keep_normal(self.log_act_scale, self.first_act_scale)
        self.act_zero_point.clamp_(0, 2**self.act_bits - 1)

    @torch.no_grad()
    def packed(self) -> PackedLayer:
        """The layer as it is deployed, on the CPU; raises ContractError if it is no layer."""
        for name, parameter in self.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise ContractError(f"{name} has a value that is not finite")
        scale = self.levels.scale()
        offset, steps = self.levels.integers()
        codes = nearest_codes(self.real_weight(), scale, offset, steps)
        matrix = PlaneMatrix(
            offset=_numpy(offset, np.int8),
            steps=_numpy(steps, np.int8),
            codes=_numpy(codes, np.uint8),
            plane_count=_numpy(self.levels.plane_count, np.int64),
            scale=_numpy(scale, np.float32),
        )
        return PackedLayer(
            weight=pack(matrix),
            bias=_numpy(self.bias, np.float32),
            act_scale=_numpy(self.act_scale(), np.float32),
            act_zero_point=_numpy(self.act_zero_point.round(), np.int32),
            act_bits=self.act_bits,
            input_factor=_numpy(self.input_factor, np.float32),
            input_shift=_numpy(self.input_shift, np.int8),
            conv=self.conv,
        )


def _padded(x_int: torch.Tensor, conv: ConvGeometry) -> tuple[torch.Tensor, tuple[int, int]]:
    """The input, padded already where its pads differ, and the pads that are left to do."""
    top, left, bottom, right = conv.pads
    if (top, left) == (bottom, right):
        return x_int, (top, left)
    return nn.functional.pad(x_int, (left, right, top, bottom)), (0, 0)


def _numpy(value: torch.Tensor, dtype: type[np.generic]) -> NDArray[Any]:
    return value.detach().cpu().numpy().astype(dtype)
