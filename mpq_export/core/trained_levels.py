"""Levels of weight rows as trained parameters that always are what the contract stores.

A row's levels are ``S * (c0 + sum_p d_p bit_p)`` with whole ``c0`` and ``d_p``. Steps and scale are
trained by their logarithms, so that one learning rate means the same relative change everywhere and
steps stay positive; the offset is trained in shares of the row's greatest level.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .plane_fit import MOST_FITTED_PLANES, residual_form
from .planes import LIMIT, PlaneMatrix
from .straight_through import rounded, weight_integers
from .weight_form import WeightForm

_GROWTH = 1.002
_FLOAT32 = np.finfo(np.float32)
_LEAST_SCALE, _LARGEST_SCALE = (float(end) for end in (_FLOAT32.tiny, _FLOAT32.max))
_LARGEST_LOG = 87.0
"""Its exponential, and that of its negative, are normal float32 numbers."""
_ROUNDING = 1e-3
"""More than float32 loses in ``first * exp(log)``, relative to the product."""


class TrainedLevels(nn.Module):
    """The levels of a matrix ``[O, K]``.

    Attributes:
        log_scale: float32 ``[O]``, log of the scale's change since the start.
        log_steps: float32 ``[O, q]``, log of the change of every independent step; None where the
            form is uniform, whose integers are fixed.
        offset_shift: float32 ``[O]``, change of ``c0`` in shares of the row's greatest level; None
            like ``log_steps``.
    """

    plane_count: torch.Tensor
    first_scale: torch.Tensor
    first_offset: torch.Tensor
    first_steps: torch.Tensor
    reach: torch.Tensor
    owned: torch.Tensor
    expand: torch.Tensor
    log_steps: torch.Tensor | None
    offset_shift: torch.Tensor | None

    def __init__(self, start: PlaneMatrix, form: WeightForm, bits: int) -> None:
        super().__init__()
        # More planes than are ever fitted stand on a uniform grid, whatever the form.
        self.is_fixed = form is WeightForm.UNIFORM or bits >= MOST_FITTED_PLANES
        planes = start.steps.shape[1]
        offset, steps = start.offset.astype(np.float32), start.steps.astype(np.float32)
        scale, reach = start.scale.copy(), _reach(start)
        owned = np.arange(planes) < start.plane_count[:, None]
        self.register_buffer("plane_count", torch.from_numpy(start.plane_count.copy()))
        if not self.is_fixed:
            # Small integers cannot move little by little; the same levels on a finer grid can.
            finer = np.floor(LIMIT / np.maximum(reach, 1)).astype(np.float32)
            finer = np.where((reach > 0) & (scale / finer >= _LEAST_SCALE), finer, np.float32(1))
            offset, steps = offset * finer, steps * finer[:, None]
            scale, reach = scale / finer, reach * finer
        self.register_buffer("first_scale", torch.from_numpy(scale.astype(np.float32)))
        self.register_buffer("first_offset", torch.from_numpy(offset))
        self.register_buffer("reach", torch.from_numpy(reach.astype(np.float32)))
        self.register_buffer("owned", torch.from_numpy(owned.astype(np.float32)))
        self.log_scale = nn.Parameter(torch.zeros(len(scale)))
        if self.is_fixed:
            self.register_buffer("first_steps", torch.from_numpy(steps))
            self.register_parameter("log_steps", None)
            self.register_parameter("offset_shift", None)
            return
        expand = torch.eye(planes)
        if form is WeightForm.RESIDUAL:
            expand = residual_form(planes, bits - 1).expand.float()
        self.register_buffer("expand", expand)
        independent = _independent_steps(torch.from_numpy(steps), self.owned, expand)
        self.register_buffer("first_steps", independent)
        self.log_steps = nn.Parameter(torch.zeros_like(independent))
        self.offset_shift = nn.Parameter(torch.zeros(len(scale)))

    def scale(self) -> torch.Tensor:
        """S, float32 ``[O]``, with gradient."""
        return self.first_scale * self.log_scale.exp()

    def integers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """c0 ``[O]`` and d ``[O, P]``, whole float32, with straight-through gradients."""
        if self.log_steps is None or self.offset_shift is None:
            return self.first_offset, self.first_steps
        offset, steps = self._real(self.offset_shift, self.log_steps)
        return rounded(offset), rounded(steps)

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The integers of the nearest levels, float32 ``[O, K]``, of ``weights`` ``[O, K]``."""
        return weight_integers(weights, self.scale().detach(), *self.integers())

    def mean_spacing(self) -> float:
        """Mean distance of neighbouring levels, in units of the weights."""
        _, steps = self.integers()
        gaps = 2.0**self.plane_count - 1
        return float((self.scale() * steps.sum(dim=1) / gaps).detach().mean())

    @torch.no_grad()
    def project(self) -> None:
        """After an update: rows whose integers left int8 get a larger scale and smaller integers,
        which mean the same levels; scales stay normal float32."""
        if self.log_steps is not None and self.offset_shift is not None:
            self._project_integers(self.offset_shift, self.log_steps)
        keep_normal(self.log_scale, self.first_scale)

    def _project_integers(self, shift: torch.Tensor, log_steps: torch.Tensor) -> None:
        while True:
            offset, steps = self.integers()
            top = offset + steps.sum(dim=1)
            broken = (offset < -LIMIT) | (top > LIMIT) | (steps > LIMIT).any(dim=1)
            if not bool(broken.any()):
                return
            furthest = torch.stack([-offset, top, steps.amax(dim=1)]).amax(dim=0) / LIMIT
            shrink = torch.where(broken, furthest.clamp(min=_GROWTH), 1.0)
            real_offset, _ = self._real(shift, log_steps)
            moved = (real_offset / shrink - self.first_offset) / self.reach.clamp(min=1)
            shift.copy_(torch.where(broken, moved, shift))
            log_steps.sub_(shrink.log()[:, None])
            self.log_scale.add_(shrink.log())

    def _real(
        self, shift: torch.Tensor, log_steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        offset = self.first_offset + shift * self.reach
        steps = (self.first_steps * log_steps.exp()) @ self.expand
        return offset, steps * self.owned


@torch.no_grad()
def keep_normal(log_change: torch.Tensor, first: torch.Tensor) -> None:
    """Clamp in place so that ``first * exp(log_change)`` is a normal, finite float32; ``first``
    already is."""
    log_first = first.double().log()
    lowest = (math.log(_LEAST_SCALE) + _ROUNDING - log_first).clamp(-_LARGEST_LOG, 0)
    highest = (math.log(_LARGEST_SCALE) - _ROUNDING - log_first).clamp(0, _LARGEST_LOG)
    log_change.clamp_(lowest.float(), highest.float())


def _reach(matrix: PlaneMatrix) -> NDArray[np.float32]:
    """Greatest magnitude of a row's levels and steps, float32 ``[O]``."""
    offset, steps = matrix.offset.astype(np.float32), matrix.steps.astype(np.float32)
    top = (offset + steps.sum(axis=1)).astype(np.float32)
    ends = np.maximum(np.abs(offset), np.abs(top))
    reach: NDArray[np.float32] = np.maximum(ends, steps.max(axis=1))
    return reach


def _independent_steps(
    steps: torch.Tensor, owned: torch.Tensor, expand: torch.Tensor
) -> torch.Tensor:
    """Real ``theta`` ``[O, q]`` such that ``theta @ expand``, rounded, are the whole ``steps``.

    A parameter that stands for several planes (``s * 2**p``) lies in the middle of what rounds to
    all of them.
    """
    low = torch.full((len(steps), len(expand)), -torch.inf)
    high = torch.full_like(low, torch.inf)
    for plane in range(steps.shape[1]):
        which = int(expand[:, plane].argmax())
        factor = expand[which, plane]
        here = owned[:, plane] > 0
        value = steps[:, plane]
        low[here, which] = torch.maximum(low[here, which], (value[here] - 0.5) / factor)
        high[here, which] = torch.minimum(high[here, which], (value[here] + 0.5) / factor)
    middle = (low + high) / 2
    return torch.where(middle.isfinite(), middle, 0.0).clamp(min=0)
