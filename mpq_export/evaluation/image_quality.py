"""Distances between sets of images: Frechet distance over any feature extractor, PSNR."""

from __future__ import annotations

from collections.abc import Callable

import torch

_BATCH = 500


def frechet_distance(
    images: torch.Tensor,
    reference: torch.Tensor,
    features: Callable[[torch.Tensor], torch.Tensor],
    num_features: int,
) -> float:
    """Frechet distance of two sets of images (Heusel et al., arXiv 1706.08500).

    Args:
        images, reference: float32 ``[N, C, H, W]`` in [0, 1].
        features: maps images to float ``[N, num_features]``.
        num_features: width of the features; both sets need clearly more images than that.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = _Extractor(features, num_features)
    metric = FrechetInceptionDistance(feature=extractor, normalize=True)
    for batch in reference.split(_BATCH):
        metric.update(batch, real=True)
    for batch in images.split(_BATCH):
        metric.update(batch, real=False)
    return float(metric.compute())


def psnr(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of paired images in [0, 1], over the whole set."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(images, reference, data_range=1.0))


class _Extractor(torch.nn.Module):
    """A feature function as the module that torchmetrics asks for."""

    def __init__(self, features: Callable[[torch.Tensor], torch.Tensor], num_features: int) -> None:
        super().__init__()
        self.num_features, self._features = num_features, features

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._features(images)
