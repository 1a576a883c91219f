"""scikit-learn's handwritten digits, brought to 16x16 and split once and for all.

The diffusion model and the classifier that judges it never see the same image: images
``[0, 1000)`` of a fixed permutation train the diffusion model and are the reference of the Frechet
distance, ``[1000, 1600)`` train the classifier, the remaining 197 test it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

IMAGE_SIZE = 16
NUM_CLASSES = 10
_DIFFUSION = slice(0, 1000)
_CLASSIFIER_TRAIN = slice(1000, 1600)
_CLASSIFIER_TEST = slice(1600, None)


@dataclass(frozen=True)
class DigitSplit:
    """Images float32 ``[N, 1, 16, 16]`` in [-1, 1] and their labels int64 ``[N]``."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Digits:
    """The three disjoint splits."""

    diffusion: DigitSplit
    classifier_train: DigitSplit
    classifier_test: DigitSplit


def load_digits() -> Digits:
    """Read the digits that ship inside scikit-learn (1,797 images of 8x8, values 0..16)."""
    from sklearn import datasets

    raw = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    small = torch.from_numpy(raw.images[order]).float()[:, None] / 16.0
    images = torch.nn.functional.interpolate(
        small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False
    )
    images = images.clamp(0.0, 1.0) * 2.0 - 1.0
    labels = torch.from_numpy(raw.target[order]).long()

    def split(part: slice) -> DigitSplit:
        return DigitSplit(images[part], labels[part])

    return Digits(split(_DIFFUSION), split(_CLASSIFIER_TRAIN), split(_CLASSIFIER_TEST))
