"""A bias of the prediction for every timestep and channel: the mean of what the trained student
misses."""

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
    """Mean of teacher minus student, guided if trajectories are, over images and pixels, of every
    channel of a prediction; float32 ``[T, C]``, 0 behind the channels of a sample.

    A quantised network can be off by a constant that a sampler sums up over its steps; a number
    removes that, and folds into the table that the denoiser already reads.
    """
    steps, entries = len(pool.schedule.entries), len(pool.schedule.timesteps)
    missed, images = torch.zeros(()), torch.zeros(entries, 1)
    progress.start("bias", ROUNDS * steps)
    for _ in range(ROUNDS * steps):
        progress.advance()
        batch = pool.next()
        student.entries.value = batch.entries
        output = predict(
            student.module, model_config, batch.sample, batch.timesteps, batch.conditions
        )
        # Added to both halves of a guided batch, a bias is added to what is guided.
        errors = (batch.target - pool.combined(output)).mean(dim=(2, 3)).cpu()
        errors[:, batch.sample.shape[1] :] = 0
        if not missed.dim():
            missed = torch.zeros(entries, errors.shape[1])
        entries_of_images = batch.entries[: len(errors)].cpu()
        missed.index_add_(0, entries_of_images, errors)
        images.index_add_(0, entries_of_images, torch.ones(len(errors), 1))
    return (missed / images.clamp(min=1)).numpy()
