"""A denoising step of the tests' small models."""

from __future__ import annotations

import fixtures
import torch


def step_of(denoiser, batch=2, timestep=666, seed=0):
    """A prediction for noise that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 2, 8, 8, generator=generator)
    return denoiser(sample, timestep, class_labels=torch.arange(batch) % fixtures.NUM_CLASSES)
