"""How much a Frechet distance owes to which images were drawn: the bootstrap over paired images.

Every image passes through the judge once; resampled are its features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ...evaluation.frechet import FeatureStatistics, frechet_distance
from ..judge import Judge

RESAMPLES = 20
_SEED, _BATCH = 0, 256


def frechet_noise(judge: Judge, images: torch.Tensor, reference: torch.Tensor) -> float:
    """Standard deviation of the distance over resampled pairs of images."""
    own, others = _features(judge, images), _features(judge, reference)
    return _deviation([_distance(own[rows], others[rows]) for rows in _resamples(len(images))])


def frechet_difference_noise(
    judge: Judge, one: torch.Tensor, other: torch.Tensor, reference: torch.Tensor
) -> float:
    """Standard deviation of the difference between two sets' distances to the reference, where
    every resample takes the same places of all three."""
    first, second, common = (_features(judge, images) for images in (one, other, reference))
    return _deviation(
        [
            _distance(first[rows], common[rows]) - _distance(second[rows], common[rows])
            for rows in _resamples(len(reference))
        ]
    )


def _features(judge: Judge, images: torch.Tensor) -> np.ndarray:
    """``[N, F]``."""
    return torch.cat([judge.features(batch) for batch in images.split(_BATCH)]).numpy()


def _distance(features: np.ndarray, reference: np.ndarray) -> float:
    return frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(reference))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


def _resamples(count: int) -> Iterator[np.ndarray]:
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(RESAMPLES):
        yield torch.randint(count, (count,), generator=generator).numpy()
