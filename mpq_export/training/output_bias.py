"""A bias of the prediction for every timestep and channel: the mean of what the trained student
misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..prediction import predict
from ..progress import ProgressReporter
from .student import Student
from .trajectory_pool import TrajectoryPool

ROUNDS = 2
"""How often every trajectory is walked to the end."""


class MissedMeans:
    """What predictions miss on the mean over images and pixels, by entry of the tables and channel.

    Channels behind those of a sample, which say variances, count as exact.
    """

    def __init__(self, table_rows: int) -> None:
        self._images = torch.zeros(table_rows, 1)
        self._missed: torch.Tensor | None = None

    def add(self, entries: torch.Tensor, sample: torch.Tensor, missed: torch.Tensor) -> None:
        """Images at rows int64 ``[B]`` of the tables: a sample ``[..., C, H, W]`` of theirs, and
        the exact prediction minus theirs, ``[B, C', H, W]``."""
        means = missed.mean(dim=(2, 3)).cpu()
        means[:, sample.shape[-3] :] = 0
        if self._missed is None:
            self._missed = torch.zeros(len(self._images), means.shape[1])
        self._missed.index_add_(0, entries, means)
        self._images.index_add_(0, entries, torch.ones(len(entries), 1))

    def by_entry(self) -> NDArray[np.float32]:
        """What is to be added to predictions, float32 ``[T, C']``; 0 where no image was."""
        if self._missed is None:
            raise ValueError("no image was seen")
        mean: NDArray[np.float32] = (self._missed / self._images.clamp(min=1)).numpy()
        return mean


@torch.no_grad()
def fit_output_bias(
    student: Student,
    model_config: Mapping[str, Any],
    pool: TrajectoryPool,
    progress: ProgressReporter,
) -> NDArray[np.float32]:
    """Mean of teacher minus student, guided if trajectories are, over images and pixels, of every
    channel of a prediction; float32 ``[T, C]``, 0 behind the channels of a sample.

    A quantised network can be off by a constant that a sampler sums up over its steps; a number
    removes that, and folds into the table that the denoiser already reads.
    """
    steps, means = len(pool.schedule.entries), MissedMeans(len(pool.schedule.timesteps))
    progress.start("bias", ROUNDS * steps)
    for _ in range(ROUNDS * steps):
        progress.advance()
        batch = pool.next()
        student.entries.value = batch.entries
        output = predict(
            student.module, model_config, batch.sample, batch.timesteps, batch.conditions
        )
        # Added to both halves of a guided batch, a bias is added to what is guided.
        missed = batch.target - pool.combined(output)
        means.add(batch.entries[: len(missed)].cpu(), batch.sample, missed)
    return means.by_entry()
