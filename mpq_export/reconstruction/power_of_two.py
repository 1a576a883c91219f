"""Power-of-two steps of single channels, by vote (DMQ).

A channel whose values are small wants a smaller step than its tensor has. Every sample n of step t
votes for the ``j`` of ``0 .. D`` with the least error when the channel's step is ``s_t 2^(j - D)``,
zero point and codes as they are; where a share of less than kappa agrees on the step's most
frequent ``j``, the channel keeps the tensor's, ``j = D``. As weights are stored once, a channel has
one shift for all steps: the largest of their votes, so that no step clips what it did not agree to.
(Published are shifts of every step, each with shifted weights of its own.)
"""

from __future__ import annotations

import torch


def vote_shifts(
    x: torch.Tensor,
    entries: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    bits: int,
    largest: int,
    agreement: float,
) -> torch.Tensor:
    """The shift ``e`` of every channel, int64 ``[C]`` in 0 .. ``largest``: its step is
    ``s_t 2^(e - largest)``.

    Args:
        x: float32 ``[N, C, L]``, samples of one image each.
        entries: int64 ``[N]``, rows of the table.
        scale, zero_point: float32 ``[T]``, of the tensor.
        bits: a.
        largest: D.
        agreement: kappa.
    """
    elected = []
    for entry in entries.unique().tolist():
        samples = x[entries == entry]
        errors = [
            _error(samples, scale[entry] * 2.0 ** (j - largest), zero_point[entry], bits)
            for j in range(largest + 1)
        ]
        # Of equal ones the largest step.
        votes = largest - torch.stack(errors[::-1]).argmin(dim=0)
        counts = torch.stack([(votes == j).sum(dim=0) for j in range(largest + 1)])
        most = largest - counts.flip(0).argmax(dim=0)
        agreed = counts.amax(dim=0) >= agreement * len(samples)
        elected.append(torch.where(agreed, most, largest))
    return torch.stack(elected).amax(dim=0)


def _error(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int
) -> torch.Tensor:
    """Mean squared error of every sample's channels, ``[N, C]``."""
    codes = ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)
    return ((codes - zero_point) * scale - x).square().mean(dim=2)
