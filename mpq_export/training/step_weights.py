"""How much each step of the sampler counts while something is fitted (DMQ's adaptive
weighting, arXiv 2507.12933).

With ``Lambda_t`` the running mean loss of step t, ``xi`` the memory and ``alpha`` the power::

    Lambda_t <- xi Lambda_t + (1 - xi) mean of the batch's losses at t
    lambda_t = (1 - Lambda_t / sum Lambda)^(alpha T / 20),   divided by its mean over all T steps

Steps with large losses count less: there a fit would spend itself. A share of the sum is about 1/T,
so that the published power alone would make all of few steps nearly 0, the only one exactly 0, and
all of many alike: ``alpha`` is that of 20 steps. The released code sums the losses of a step in a
batch instead of averaging them, so that a step drawn twice would count as one twice as bad; the
equation of the paper is a mean.

Running means begin at 0 and are divided by what they have taken in, ``1 - xi^n`` after n batches
with step t, as in Adam: otherwise a step seen less often would pass for a better one. A step that
was not seen yet counts as the mean of those that were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_STEPS_OF_POWER = 20


class StepWeights:
    """The weights of T steps, which follow the losses that they are told."""

    def __init__(
        self,
        steps: int,
        power: float,
        memory: float,
        device: torch.device | None = None,
        summed: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    ) -> None:
        """``summed`` adds up a tensor over processes that each tell losses of their own."""
        self._running = torch.zeros(2, steps, device=device)
        self._power, self._memory = power * steps / _STEPS_OF_POWER, memory
        self._summed = summed

    def state(self) -> torch.Tensor:
        """What the next weights depend on: running losses, and how much of a mean each is, float32
        ``[2, T]``."""
        return self._running

    def load(self, state: torch.Tensor) -> None:
        """Go on from a state."""
        self._running = state.to(self._running)

    def update(self, losses: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Take in the losses ``[B]`` of samples at ``steps`` int64 ``[B]``, and return the weight
        of each, float32 ``[B]``, without gradient. Steps that are not there stay as they were."""
        size = self._running.shape[1]
        if self._power == 0 or size == 1:
            return torch.ones_like(losses).detach()
        told = torch.stack([losses.detach().float(), torch.ones_like(losses).detach().float()])
        told = self._summed(torch.zeros_like(self._running).index_add_(1, steps, told))
        total, count = told
        batch = torch.stack([total / count.clamp(min=1), torch.ones_like(count)])
        moved = self._memory * self._running + (1 - self._memory) * batch
        self._running = torch.where(count > 0, moved, self._running)
        running, taken = self._running
        seen = taken > 0
        mean = torch.where(seen, running / taken.clamp(min=1e-9), 0)
        mean = torch.where(seen, mean, mean.sum() / seen.sum().clamp(min=1))
        share = mean / mean.sum().clamp(min=torch.finfo(torch.float32).tiny)
        weights = (1 - share).pow(self._power)
        return (weights / weights.mean())[steps]
