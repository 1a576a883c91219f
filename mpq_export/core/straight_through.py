"""Whole numbers with gradients: the contract's roundings forward, straight-through estimates back.

The forward values are the deployed ones, bit for bit. A rounding passes its gradient on as if it
were the identity, within the range that its codes can reach (Bengio et al., arXiv 1308.3432; LSQ,
arXiv 1902.08153, for what reaches scale and zero point).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def rounded(value: torch.Tensor) -> torch.Tensor:
    """Nearest whole numbers, half to even; the gradient passes unchanged."""
    return value + (value.round() - value).detach()


def activation_integers(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int
) -> torch.Tensor:
    """The contract's ``x_int = clamp(rne(x / s) + z, 0, 2**bits - 1) - z`` as float32.

    Args:
        x: float32, finite, already multiplied by its input factors.
        scale: float32, positive, broadcasts against ``x``.
        zero_point: float32, whole numbers in 0 .. 2**bits - 1, broadcasts against ``x``.
        bits: a.

    Gradients: to x ``1 / s`` and to s ``-x / s**2`` where the code is not clamped, to z ``-1``
    where it is.
    """
    result: torch.Tensor = _ActivationIntegers.apply(x, scale, zero_point, 2**bits - 1)
    return result


def weight_integers(
    weights: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """The integers of every weight's nearest level, float32 ``[O, K]``.

    Args:
        weights: float32 ``[O, K]``.
        scale: float32 ``[O]``, S.
        offset: float32 ``[O]``, whole numbers, c0.
        steps: float32 ``[O, P]``, whole numbers, d; 0 where a row has no plane p.

    Gradients: to a weight ``1 / S`` between the row's lowest and highest level and 0 outside; to
    offset and steps those of the chosen code. S itself is multiplied elsewhere.
    """
    result: torch.Tensor = _WeightIntegers.apply(weights, scale, offset, steps)
    return result


def epilogue(sums: torch.Tensor, combined: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``fl(fl(sums * combined) + bias)``, two roundings as the contract wants them.

    Args:
        sums: float32, whole numbers, NCHW or ``[B, ..., O]``.
        combined: float32, ``fl(s_t * S)`` of every image and row, broadcasts against ``sums``.
        bias: float32, broadcasts against ``sums``.
    """
    result: torch.Tensor = _Epilogue.apply(sums, combined, bias)
    return result


def nearest_codes(
    weights: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """The code of the nearest level, uint8 ``[O, K]``: equal to
    :func:`~mpq_export.core.planes.nearest_codes`. Arguments as in :func:`weight_integers`."""
    levels = Levels(scale, offset, steps)
    return levels.codes.gather(1, levels.positions(weights))


class Levels:
    """All ``2**P`` levels of every row in ascending order, and the borders between them.

    ``integers`` float32 ``[O, L]``, ``codes`` uint8 ``[O, L]`` (of equal levels the smallest),
    ``borders`` float32 ``[O, L - 1]``.
    """

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor, steps: torch.Tensor) -> None:
        table = offset[:, None] + steps @ code_bits(steps.shape[1], steps.device).T
        self.integers, order = table.sort(dim=1, stable=True)
        new = torch.ones_like(self.integers, dtype=torch.bool)
        new[:, 1:] = self.integers[:, 1:] != self.integers[:, :-1]
        place = torch.arange(table.shape[1], device=table.device).expand_as(table)
        first = torch.where(new, place, 0).cummax(dim=1).values
        self.codes = order.gather(1, first).to(torch.uint8)
        middle = (self.integers[:, 1:] + self.integers[:, :-1]).double() * 0.5
        self.borders = _rounded_down(scale.double()[:, None] * middle)

    def positions(self, weights: torch.Tensor) -> torch.Tensor:
        """How many borders lie below each weight, int64 ``[O, K]``."""
        return torch.searchsorted(self.borders, weights.contiguous())


@cache
def code_bits(planes: int, device: torch.device) -> torch.Tensor:
    """Bit p of every code, float32 ``[2**P, P]``; shared, so not to be written to."""
    codes = torch.arange(2**planes, device=device)
    return ((codes[:, None] >> torch.arange(planes, device=device)) & 1).float()


def _rounded_down(value: torch.Tensor) -> torch.Tensor:
    """The greatest float32 not above a float64: comparing a float32 with either is the same."""
    narrow = value.float()
    below = torch.nextafter(narrow, torch.full_like(narrow, -torch.inf))
    return torch.where(narrow.double() > value, below, narrow)


class _ActivationIntegers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, top: int
    ) -> torch.Tensor:
        code = (x / scale).round_().add_(zero_point)
        clamped = code.clamp(0, top)
        ctx.save_for_backward(x, scale, clamped == code)
        ctx.zero_point_shape = zero_point.shape
        return clamped.sub_(zero_point)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, inside = ctx.saved_tensors
        passed = torch.where(inside, grad, 0.0)  # a product with truth values takes twice as long
        to_scale = to_zero = None
        if ctx.needs_input_grad[2]:
            to_zero = (passed - grad).sum_to_size(ctx.zero_point_shape)
        passed.div_(scale)
        if ctx.needs_input_grad[1]:
            to_scale = -(passed * x).sum_to_size(scale.shape) / scale
        return passed, to_scale, to_zero, None


class _Epilogue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sums: torch.Tensor, combined: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(sums, combined)
        ctx.bias_shape = bias.shape
        return (sums * combined).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        sums, combined = ctx.saved_tensors
        to_combined = to_bias = None
        if ctx.needs_input_grad[1]:
            to_combined = (grad * sums).sum_to_size(combined.shape)
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum_to_size(ctx.bias_shape)
        return grad * combined, to_combined, to_bias


class _WeightIntegers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor,
        steps: torch.Tensor,
    ) -> torch.Tensor:
        levels = Levels(scale, offset, steps)
        positions = levels.positions(weights)
        real = levels.integers * scale[:, None]
        inside = (weights >= real[:, :1]) & (weights <= real[:, -1:])
        ctx.save_for_backward(scale, inside, positions.to(torch.uint8), levels.codes)
        ctx.planes = steps.shape[1]
        # A weight that is no number has no level: the loss is to tell of it.
        return levels.integers.gather(1, positions).masked_fill_(weights.isnan(), torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale, inside, positions, codes = ctx.saved_tensors
        to_weights = to_offset = to_steps = None
        if ctx.needs_input_grad[0]:
            to_weights = grad.masked_fill(~inside, 0).div_(scale[:, None])
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            by_level = grad.new_zeros(codes.shape).scatter_add_(1, positions.long(), grad)
            to_offset = by_level.sum(dim=1)
            bits = code_bits(ctx.planes, grad.device)[codes.long()]
            to_steps = (by_level[:, :, None] * bits).sum(dim=1)
        return to_weights, None, to_offset, to_steps
