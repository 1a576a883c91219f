"""How much each step of the sampler counts while a layer is fitted (DMQ's adaptive weighting).

With ``Lambda_t`` the running mean loss of step t, ``xi`` the memory and ``alpha`` the power::

    Lambda_t <- xi Lambda_t + (1 - xi) mean of the batch's losses at t
    lambda_t = (1 - Lambda_t / sum Lambda)^(alpha T / 20),   divided by its mean over all T steps

Steps with large losses count less: there a fit would spend itself. A share of the sum is about 1/T,
so that the published power alone would make all of few steps nearly 0, the only one exactly 0, and
all of many alike: ``alpha`` is that of 20 steps. The released code sums the losses of a step in a
batch instead of averaging them, so that a step drawn twice would count as one twice as bad; the
equation of the paper is a mean.
"""

from __future__ import annotations

import torch

_STEPS_OF_POWER = 20


class StepWeights:
    """The weights of T steps, which follow the losses that they are told."""

    def __init__(self, steps: int, power: float, memory: float) -> None:
        self._running = torch.zeros(steps)
        self._power, self._memory = power * steps / _STEPS_OF_POWER, memory

    def update(self, losses: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Take in the losses ``[B]`` of samples at ``steps`` int64 ``[B]``, and return the weight
        of each, float32 ``[B]``, without gradient. Steps that are not there stay as they were."""
        size = len(self._running)
        if self._power == 0 or size == 1:
            return torch.ones_like(losses).detach()
        total = torch.zeros(size).index_add_(0, steps, losses.detach())
        count = torch.bincount(steps, minlength=size)
        mean = total / count.clamp(min=1)
        moved = self._memory * self._running + (1 - self._memory) * mean
        self._running = torch.where(count > 0, moved, self._running)
        share = self._running / self._running.sum().clamp(min=torch.finfo(torch.float32).tiny)
        weights = (1 - share).pow(self._power)
        return (weights / weights.mean())[steps]
