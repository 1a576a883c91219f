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

from ..training.output_bias import MissedMeans
from ..training.trajectories import calls_per_step
from .walk import CalibrationWalk, ChosenImages, replay


@torch.no_grad()
def prediction_bias(
    quantized: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    table_rows: int,
    prepare: Callable[[ChosenImages], None],
    on_step: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """What is to be added to every channel of the prediction, float32 ``[table_rows, C]``.

    Args:
        quantized: the model as it is deployed.
        model_config: its config.
        walk: trajectories of the full-precision model, with its predictions.
        table_rows: T; steps of one entry are taken together.
        prepare: called before the model with the images of its call.
        on_step: reports progress.
    """
    means = MissedMeans(table_rows)
    for step in walk.steps:
        count = len(step.sample)
        for images in torch.arange(count).tensor_split(calls_per_step(model_config, count)):
            chosen = ChosenImages(step, images)
            prepare(chosen)
            missed = step.prediction[images] - replay(quantized, model_config, chosen)
            means.add(torch.full_like(images, step.entry), chosen.sample, missed)
        on_step()
    return means.by_entry()
