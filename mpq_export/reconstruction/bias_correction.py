"""The mean error of a quantised model's prediction, which a sampler sums up over its steps.

Rounded weights shift the mean of what a layer gives (bias correction: Data-Free Quantization, Nagel
et al., arXiv 1906.04721, section 4.2). At a prediction the shift of a channel is one colour, alike
at all pixels and nearly so at all steps: a small error of every step, a large one of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..prediction import predict
from ..training.trajectories import TrajectoryStep, calls_per_step
from .walk import CalibrationWalk


@torch.no_grad()
def prediction_bias(
    quantized: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    table_rows: int,
    prepare: Callable[[int, torch.Tensor, Mapping[str, torch.Tensor]], None],
    on_step: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """What is to be added to every channel of the prediction, float32 ``[table_rows, C]``.

    Args:
        quantized: the model as it is deployed.
        model_config: its config.
        walk: trajectories of the full-precision model, with its predictions.
        table_rows: T; steps of one entry are taken together.
        prepare: called before the model with the entry of the tables, a sample ``[B, ...]``, and
            its conditions.
        on_step: reports progress.

    Channels behind those of a sample, which say variances, get nothing.
    """
    missed = images = torch.zeros(())
    for step in walk.steps:
        for rows in torch.arange(len(step.sample)).tensor_split(_calls(model_config, step)):
            sample = step.sample[rows]
            conditions = {name: value[rows] for name, value in step.conditions.items()}
            prepare(step.entry, sample, conditions)
            output = predict(quantized, model_config, sample, step.timestep, conditions)
            error = (step.prediction[rows] - output).mean(dim=(2, 3)).sum(dim=0)
            error[sample.shape[1] :] = 0
            if not missed.dim():
                missed, images = torch.zeros(table_rows, len(error)), torch.zeros(table_rows, 1)
            missed[step.entry] += error
            images[step.entry] += len(rows)
        on_step()
    return (missed / images.clamp(min=1)).numpy()


def _calls(model_config: Mapping[str, Any], step: TrajectoryStep) -> int:
    return calls_per_step(model_config, len(step.sample))
