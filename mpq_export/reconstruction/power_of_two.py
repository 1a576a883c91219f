"""Power-of-two steps of single channels, by vote (DMQ, arXiv 2507.12933).

A channel whose values are small wants a smaller step than its tensor has. Every sample n of step t
votes for the ``j`` of ``0 .. D`` with the least error when the channel's step is ``s_t 2^(j - D)``,
zero point and codes as they are; where a share of less than kappa agrees on the most frequent one,
the channel keeps the tensor's, ``j = D``. As weights are stored once, a channel has one shift for
all steps, so that the samples of all steps are one electorate. (Published is an election at every
step, each with shifted weights of its own.)
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
    votes = torch.cat(
        [
            _votes(x[entries == entry], scale[entry], zero_point[entry], bits, largest)
            for entry in entries.unique().tolist()
        ]
    )
    counts = torch.stack([(votes == j).sum(dim=0) for j in range(largest + 1)])
    most = largest - counts.flip(0).argmax(dim=0)
    agreed = counts.amax(dim=0) >= agreement * len(votes)
    return torch.where(agreed, most, largest)


def _votes(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int, largest: int
) -> torch.Tensor:
    """The shift with the least error of every sample's channels, int64 ``[N, C]``; of equal ones
    the largest."""
    errors = [
        _error(x, scale * 2.0 ** (j - largest), zero_point, bits) for j in range(largest, -1, -1)
    ]
    return largest - torch.stack(errors).argmin(dim=0)


def _error(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int
) -> torch.Tensor:
    """Mean squared error of every sample's channels, ``[N, C]``."""
    codes = ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)
    return ((codes - zero_point) * scale - x).square().mean(dim=2)
