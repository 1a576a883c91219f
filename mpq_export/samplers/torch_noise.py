"""Gaussian noise as torch draws it on a CPU, so that a seed means one image with and without torch.

Mersenne Twister words, 24 bits of each as a uniform number, and Box-Muller pairs within blocks of
16 numbers. Equal to ``torch.randn`` up to the rounding of logarithms and cosines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .sampler import Array

_BLOCK = 16
_SEED_MASK, _UNIFORM_MASK = 2**32 - 1, 2**24 - 1


class TorchNoise:
    """The counterpart of ``torch.Generator().manual_seed(seed)``; its calls continue one stream."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & _SEED_MASK)

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers; fewer than 16 at once are not torch's."""
        count = math.prod(shape)
        uniform = self._uniform(max(count, _BLOCK))
        whole = len(uniform) // _BLOCK * _BLOCK
        normal = _box_muller(uniform[:whole])
        if whole < count:  # torch draws the last 16 anew, over what was there
            kept = count - _BLOCK
            normal = np.concatenate([normal[:kept], _box_muller(self._uniform(_BLOCK))])
        return normal[:count].reshape(shape)

    def _uniform(self, count: int) -> Array:
        words = self._words.randint(0, 2**32, count, dtype=np.uint32)
        return (words & _UNIFORM_MASK).astype(np.float32) * np.float32(2**-24)


class NoiseOfImages:
    """A stream for every image of a batch, as diffusers draws it from a list of generators."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [TorchNoise(seed) for seed in seeds]

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers ``[B, ...]``, a row from each stream."""
        return np.concatenate([stream((1, *shape[1:])) for stream in self._streams])


def _box_muller(uniform: Array) -> Array:
    first, second = uniform.reshape(-1, 2, _BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(-2 * np.log(1 - first))
    angle = np.float32(2 * np.pi) * second
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)
