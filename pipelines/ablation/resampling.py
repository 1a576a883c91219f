"""How much a Frechet distance owes to which images were drawn: the bootstrap over paired images."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..judge import Judge

RESAMPLES = 20
_SEED = 0


def frechet_noise(judge: Judge, images: torch.Tensor, reference: torch.Tensor) -> float:
    """Standard deviation of the distance over resampled pairs of images."""
    distances = [judge.frechet(images[rows], reference[rows]) for rows in _resamples(len(images))]
    return float(torch.tensor(distances, dtype=torch.float64).std())


def frechet_difference_noise(
    judge: Judge, one: torch.Tensor, other: torch.Tensor, reference: torch.Tensor
) -> float:
    """Standard deviation of the difference between two sets' distances to the reference, where
    every resample takes the same places of all three."""
    differences = [
        judge.frechet(one[rows], reference[rows]) - judge.frechet(other[rows], reference[rows])
        for rows in _resamples(len(reference))
    ]
    return float(torch.tensor(differences, dtype=torch.float64).std())


def _resamples(count: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(RESAMPLES):
        yield torch.randint(count, (count,), generator=generator)
