"""Learning which of its two neighbouring levels every weight is rounded to.

AdaRound (Nagel et al., arXiv 2004.10568) in the form of BRECQ (arXiv 2102.05426), on the levels of
bit planes instead of a uniform grid. A weight between its neighbours ``l <= w <= u`` is

    w~ = l + h (u - l),   h = clamp(sigmoid(v) (zeta - gamma) + gamma, 0, 1)

with ``zeta = 1.1, gamma = -0.1``, and a penalty ``1 - |2h - 1|^beta`` draws h to 0 or 1. At the end
``h >= 1/2`` decides, which is a level of the row: what is trained is what is deployed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from .integer_reference import ConvGeometry, column_factors
from .planes import PlaneMatrix
from .straight_through import Levels

_GAMMA, _ZETA = -0.1, 1.1
_LARGEST_LOGIT = math.log((1 - _GAMMA) / (_ZETA - 1))
"""Beyond it h is 0 or 1, and has no gradient."""


class LearnedRounding(nn.Module):
    """The rounding of a matrix ``[O, K]`` whose levels stay as they are.

    Attributes:
        logit: float32 ``[O, K]``, v; begins where the soft weight is the real one, between levels.
    """

    scale: torch.Tensor
    lower: torch.Tensor
    gap: torch.Tensor
    codes: torch.Tensor
    position: torch.Tensor

    def __init__(self, weights: torch.Tensor, start: PlaneMatrix) -> None:
        """Args: ``weights`` float32 ``[O, K]``, as the quantiser of ``start`` was given them."""
        super().__init__()
        self.start = start
        scale = torch.from_numpy(start.scale.copy())
        levels = Levels(
            scale,
            torch.from_numpy(start.offset.astype(np.float32)),
            torch.from_numpy(start.steps.astype(np.float32)),
        )
        table = levels.integers
        # The last of equal levels: the next one is greater.
        below = torch.searchsorted(table, weights / scale[:, None], right=True) - 1
        position = below.clamp(0, table.shape[1] - 1)
        above = (position + 1).clamp(max=table.shape[1] - 1)
        lower, upper = table.gather(1, position), table.gather(1, above)
        # Below the lowest level both neighbours are that level, as above the highest.
        upper = torch.where(below < 0, lower, upper)
        self.register_buffer("scale", scale[:, None])
        self.register_buffer("lower", lower)
        self.register_buffer("gap", upper - lower)
        self.register_buffer("codes", levels.codes)
        self.register_buffer("position", position.to(torch.uint8))
        share = (weights / self.scale - lower) / self.gap.clamp(min=1)
        share = torch.where(self.gap > 0, share, 0.0).clamp(0, 1)
        logit = torch.logit((share - _GAMMA) / (_ZETA - _GAMMA))
        self.logit = nn.Parameter(logit.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT))

    def share(self) -> torch.Tensor:
        """h, float32 ``[O, K]``, with gradient."""
        return (torch.sigmoid(self.logit) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)

    def forward(self) -> torch.Tensor:
        """The soft weights, float32 ``[O, K]``."""
        return self.scale * (self.lower + self.share() * self.gap)

    def penalty(self, beta: float) -> torch.Tensor:
        """``sum(1 - |2h - 1|^beta)`` over the weights that have a choice."""
        undecided = 1 - (2 * self.share() - 1).abs().pow(beta)
        return torch.where(self.gap > 0, undecided, 0.0).sum()

    @torch.no_grad()
    def hard(self) -> torch.Tensor:
        """The weights of :meth:`matrix`, float32 ``[O, K]``."""
        return self.scale * (self.lower + self._up() * self.gap)

    @torch.no_grad()
    def matrix(self) -> PlaneMatrix:
        """As it is deployed: the levels of the start with the codes that were learned."""
        position = self.position.long() + self._up().long()
        codes = self.codes.gather(1, position.clamp(max=self.codes.shape[1] - 1))
        start = self.start
        return PlaneMatrix(
            start.offset, start.steps, codes.cpu().numpy(), start.plane_count, start.scale
        )

    def _up(self) -> torch.Tensor:
        return ((self.share() >= 0.5) & (self.gap > 0)).float()


class RoundedLayer(nn.Module):
    """A Linear or Conv2d of quantised weights and inputs in full precision, whose rounding is
    learned.

    Attributes:
        rounding: of the weight in the space of the quantiser, columns divided by ``input_factor``;
            None when the layer is settled.
    """

    factor: torch.Tensor
    bias: torch.Tensor
    fixed: torch.Tensor | None
    rounding: LearnedRounding | None

    def __init__(
        self,
        rounding: LearnedRounding,
        input_factor: np.ndarray,
        bias: torch.Tensor,
        conv: ConvGeometry | None,
    ) -> None:
        """Args: ``input_factor`` float32 ``[I]``, the contract's r; ``bias`` float32 ``[O]``."""
        super().__init__()
        self.rounding, self.conv = rounding, conv
        factor = column_factors(input_factor, conv, len(bias)).astype(np.float32)
        self.register_buffer("factor", torch.from_numpy(factor.copy()))
        self.register_buffer("bias", bias)
        self.register_buffer("fixed", None)

    @torch.no_grad()
    def fix(self, weights: torch.Tensor | None) -> None:
        """Compute with ``weights`` ``[O, K]`` of the quantiser's space, or None: with soft ones."""
        self.fixed = None if weights is None else weights * self.factor

    def settle(self, weights: torch.Tensor) -> None:
        """Compute with ``weights`` for good; what was needed to learn them is let go."""
        self.fix(weights)
        self.rounding = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Linear: ``[..., K]`` to ``[..., O]``; convolution: NCHW to NCHW."""
        weight = self.fixed
        if weight is None:
            assert self.rounding is not None, "a settled layer has its weight"
            weight = self.rounding() * self.factor
        if self.conv is None:
            return nn.functional.linear(x, weight, self.bias)
        conv = self.conv
        weight = weight.unflatten(1, (*conv.kernel_shape, -1)).permute(0, 3, 1, 2)
        top, left, bottom, right = conv.pads
        padded = nn.functional.pad(x, (left, right, top, bottom))
        return nn.functional.conv2d(
            padded, weight, self.bias, conv.strides, 0, conv.dilations, conv.group
        )
