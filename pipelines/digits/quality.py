"""How good drawn digits are: are they the digits asked for, and how far from data and original."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...evaluation.image_quality import frechet_distance, psnr
from .classifier import DigitClassifier
from .data import load_digits
from .family import labels


@dataclass(frozen=True)
class DigitsQuality:
    """Accuracy is the share of images that the classifier labels as asked. Frechet distances are
    over its 64 features; ``frechet_full_precision`` and ``psnr_full_precision`` (dB) compare with
    full precision from the same noise, None for full precision itself."""

    accuracy: float
    frechet_data: float
    frechet_full_precision: float | None
    psnr_full_precision: float | None


class DigitsJudge:
    """The classifier and the data it measures against (the diffusion split, 1,000 images)."""

    def __init__(self) -> None:
        self._classifier = DigitClassifier.load()
        self._data = load_digits().diffusion.images / 2 + 0.5

    def measure(self, images: torch.Tensor, full_precision: torch.Tensor | None) -> DigitsQuality:
        """Judge images ``[N, 1, 16, 16]`` in [0, 1] that were drawn for labels 0..9 in turn."""
        predicted = self._classifier(images * 2 - 1).argmax(1)
        accuracy = (predicted == labels(len(images))).float().mean().item()
        to_data = self.frechet(images, self._data)
        if full_precision is None:
            return DigitsQuality(accuracy, to_data, None, None)
        to_original = self.frechet(images, full_precision)
        return DigitsQuality(accuracy, to_data, to_original, psnr(images, full_precision))

    def frechet(self, images: torch.Tensor, reference: torch.Tensor) -> float:
        """Frechet distance over the classifier's features."""

        def features(batch: torch.Tensor) -> torch.Tensor:
            return self._classifier.features(batch * 2 - 1)

        return frechet_distance(images, reference, features, DigitClassifier.num_features)
