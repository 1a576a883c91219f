"""How digits are drawn: labels 0..9 in turn, all noise from one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...numpy_sampling import BATCH
from ...schedulers import build_scheduler
from ..registry import DrawRequest
from .data import NUM_CLASSES
from .pipeline import DigitsPipeline


def build_pipeline(
    denoiser: Any, scheduler_config: Mapping[str, Any], _bundle: Path | None = None
) -> DigitsPipeline:
    """The pipeline around a denoiser."""
    pipeline = DigitsPipeline(denoiser, build_scheduler(scheduler_config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def labels(num_images: int) -> torch.Tensor:
    """The digit asked for in every image, int64 ``[N]``."""
    return torch.arange(num_images) % NUM_CLASSES


def draw(
    pipeline: DigitsPipeline,
    request: DrawRequest,
    on_images: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Images ``[N, 1, 16, 16]`` in [0, 1], drawn in batches; ``on_images`` reports progress."""
    request = request.without_text("digits")
    generator = torch.Generator().manual_seed(request.seed)
    images = []
    for part in labels(request.num_images).split(BATCH):
        drawn = pipeline(part, request.num_steps, generator=generator, output_type="pt")
        images.append(drawn.images)
        on_images(len(part))
    return torch.cat(images)
