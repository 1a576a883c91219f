"""How good the images of a class-conditional family are: as asked, and how far from what."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..evaluation.image_quality import frechet_distance, psnr
from .class_conditional import classes_in_turn


@dataclass(frozen=True)
class ImageQuality:
    """Accuracy is the share of images that the family's classifier labels as asked, None where
    nothing was asked. Frechet distances are over its features; ``frechet_full_precision`` and
    ``psnr_full_precision`` (dB) compare with full precision from the same noise, None for full
    precision itself."""

    accuracy: float | None
    frechet_data: float
    frechet_full_precision: float | None
    psnr_full_precision: float | None


class Judge(Protocol):
    """What measures the images of a family.

    ``data`` are real images ``[N, C, H, W]`` in [0, 1], the reference of ``frechet_data``.
    """

    data: torch.Tensor

    def measure(self, images: torch.Tensor, full_precision: torch.Tensor | None) -> ImageQuality:
        """Judge images ``[N, C, H, W]`` in [0, 1] that were drawn for labels in turn."""

    def frechet(self, images: torch.Tensor, reference: torch.Tensor) -> float:
        """Frechet distance between two sets of images."""

    @property
    def extractor(self) -> str:
        """Whose features these are: a name and a hash of its weights."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features ``[N, F]`` of images ``[N, C, H, W]`` in [0, 1], of which distances are."""

    def as_asked(self, images: torch.Tensor, numbers: range) -> int | None:
        """How many of the images of these numbers show what was asked for, labels in turn; None
        where nothing is asked."""


class Classifier(nn.Module):
    """Images ``[N, C, H, W]`` in [-1, 1] to logits ``[N, num_classes]``, by way of features."""

    num_classes: int
    num_features: int

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """``[N, num_features]``."""
        raise NotImplementedError


class ClassifierJudge:
    """A judge by a classifier that was trained on other images than ``data``.

    Args:
        classifier: its logits name the class, its features measure distance.
        data: real images ``[N, C, H, W]`` in [0, 1].
    """

    def __init__(self, classifier: Classifier, data: torch.Tensor) -> None:
        self._classifier, self.data = classifier, data

    @property
    def extractor(self) -> str:
        """The classifier's class, and the beginning of its weights' sha256."""
        digest = hashlib.sha256()
        for name, value in sorted(self._classifier.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return f"{type(self._classifier).__name__} {digest.hexdigest()[:16]}"

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The classifier's features ``[N, F]`` of images ``[N, C, H, W]`` in [0, 1]."""
        return self._classifier.features(images * 2 - 1)

    @torch.no_grad()
    def as_asked(self, images: torch.Tensor, numbers: range) -> int:
        """How many images the classifier labels as asked."""
        predicted = self._classifier(images * 2 - 1).argmax(1)
        return int((predicted == classes_in_turn(numbers, self._classifier.num_classes)).sum())

    @torch.no_grad()
    def measure(self, images: torch.Tensor, full_precision: torch.Tensor | None) -> ImageQuality:
        """Judge images ``[N, C, H, W]`` in [0, 1] that were drawn for labels in turn."""
        accuracy = self.as_asked(images, range(len(images))) / len(images)
        to_data = self.frechet(images, self.data)
        if full_precision is None:
            return ImageQuality(accuracy, to_data, None, None)
        to_original = self.frechet(images, full_precision)
        return ImageQuality(accuracy, to_data, to_original, psnr(images, full_precision))

    def frechet(self, images: torch.Tensor, reference: torch.Tensor) -> float:
        """Frechet distance over the classifier's features."""
        return frechet_distance(images, reference, self.features, self._classifier.num_features)
