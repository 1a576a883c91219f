"""A bias of the prediction for every timestep: the mean of what the trained student misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..prediction import predict
from ..progress import ProgressReporter
from .student import Student
from .trajectory_pool import TrajectoryPool

ROUNDS = 2
"""How often every trajectory is walked to the end."""


@torch.no_grad()
def fit_output_bias(
    student: Student,
    model_config: Mapping[str, Any],
    pool: TrajectoryPool,
    progress: ProgressReporter,
) -> np.ndarray:
    """Mean of teacher minus student, guided if trajectories are, over images, pixels and channels
    of a sample; float32 ``[T]``.

    A quantised network can be off by a constant that a sampler sums up over its steps; one number
    per step removes that, and folds into the table that the denoiser already reads.
    """
    steps, entries = len(pool.schedule.entries), len(pool.schedule.timesteps)
    missed, images = torch.zeros(entries), torch.zeros(entries)
    progress.start("bias", ROUNDS * steps)
    for _ in range(ROUNDS * steps):
        progress.advance()
        batch = pool.next()
        student.entries.value = batch.entries
        output = predict(
            student.module, model_config, batch.sample, batch.timesteps, batch.conditions
        )
        channels = batch.sample.shape[1]
        # Added to both halves of a guided batch, a bias is added to what is guided.
        difference = batch.target - pool.combined(output)
        by_image = difference[:, :channels].flatten(1).mean(dim=1).cpu()
        entries_of_images = batch.entries[: len(by_image)].cpu()
        missed.index_add_(0, entries_of_images, by_image)
        images.index_add_(0, entries_of_images, torch.ones_like(by_image))
    return (missed / images.clamp(min=1)).numpy()
