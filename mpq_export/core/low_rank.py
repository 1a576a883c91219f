"""Low-rank branches: what is added to a weight matrix before it is quantised, and how it begins.

A convolution has one pair of factors per kernel tap, as in MPQ-DM (arXiv 2412.11549) and
EfficientDM (arXiv 2310.03270). The branch is merged when training ends: no cost at inference.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class LowRankBranch(nn.Module):
    """``delta = B A`` of every kernel tap.

    ``down`` (A) is ``[taps, r, I]``, ``up`` (B) ``[taps, O, r]``, I the input channels of a group.
    """

    def __init__(self, down: torch.Tensor, up: torch.Tensor) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self) -> torch.Tensor:
        """``[O, taps * I]``, columns in OHWI order."""
        return torch.bmm(self.up, self.down).transpose(0, 1).flatten(1)


def zero_branch(
    rows: int, columns: int, taps: int, rank: int, generator: torch.Generator
) -> LowRankBranch:
    """LoRA's start (arXiv 2106.09685): A uniform in ``+-1/sqrt(fan in)``, B zero.

    ``columns`` is K = taps * I. The rank is at most what a tap's matrix has.
    """
    channels = columns // taps
    rank = min(rank, rows, channels)
    bound = 1 / math.sqrt(channels)
    down = (torch.rand(taps, rank, channels, generator=generator) * 2 - 1) * bound
    return LowRankBranch(down, torch.zeros(taps, rows, rank))


def error_branch(error: torch.Tensor, taps: int, rank: int) -> LowRankBranch:
    """The best approximation of a quantisation error (Eckart-Young), tap by tap.

    ``B = U S**0.5``, ``A = S**0.5 V^T`` of the ``rank`` greatest singular values of ``error``
    ``[O, taps * I]``.
    """
    by_tap = error.unflatten(1, (taps, -1)).transpose(0, 1)
    left, values, right = torch.linalg.svd(by_tap.double(), full_matrices=False)
    rank = min(rank, values.shape[1])
    root = values[:, :rank].sqrt()
    up = (left[:, :, :rank] * root[:, None, :]).float().contiguous()
    down = (root[:, :, None] * right[:, :rank]).float().contiguous()
    return LowRankBranch(down, up)
