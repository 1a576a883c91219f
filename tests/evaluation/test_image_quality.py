"""Frechet distance and PSNR against values known in closed form."""

import numpy as np
import pytest
import torch

from mpq_export.evaluation.image_quality import frechet_distance, psnr


def pixels(images):
    return images.flatten(1)


def gaussian(mean, deviation, count=4000, seed=0):
    """Images of four independent pixels."""
    noise = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed)).double()
    noise = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    return mean + deviation * noise


def test_equal_sets_are_at_distance_zero():
    images = gaussian(0.5, 0.1)
    assert frechet_distance(images, images, pixels, 4) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(0.7, 0.1), (0.5, 0.2), (0.4, 0.3)])
def test_distance_of_gaussians(mean, deviation):
    """For equal correlations: sum of (mean difference)**2 + (deviation difference)**2."""
    distance = frechet_distance(gaussian(0.5, 0.1), gaussian(mean, deviation), pixels, 4)
    assert distance == pytest.approx(4 * ((mean - 0.5) ** 2 + (deviation - 0.1) ** 2), rel=1e-4)


def test_psnr_of_a_constant_error():
    images = torch.full((3, 1, 4, 4), 0.5)
    assert psnr(images + 0.1, images) == pytest.approx(20 * np.log10(1 / 0.1), rel=1e-4)
