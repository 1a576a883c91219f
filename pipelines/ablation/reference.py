"""What the full-precision model draws, and how far two sets of its images are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...checkpoints import load_checkpoint
from ...evaluation.image_quality import psnr
from ...progress import ProgressReporter
from ..judge import Judge
from ..registry import DrawRequest, load_family
from .grid import Cell
from .keys import keys_of
from .resampling import frechet_noise
from .store import Record, Store

_NOISE, _OTHER_NOISE = 10_000, 20_000
"""Added to a cell's seed: calibration and training never see the noise that images start from."""


@dataclass(frozen=True)
class Reference:
    """A family's full-precision images ``[N, C, H, W]`` in [0, 1] and their figures."""

    images: torch.Tensor
    figures: dict[str, float]


def drawing_of(cell: Cell) -> DrawRequest:
    """What every model of a cell's family and seed draws: the same images from the same noise."""
    return DrawRequest(cell.num_images, cell.num_steps, _NOISE + cell.seed)


def reference_of(cell: Cell, store: Store, judge: Judge, progress: ProgressReporter) -> Reference:
    """From the store, or drawn and measured now."""
    key = keys_of(cell).reference
    with store.locked(key, wait=True):
        if not store.has_images(key) or store.figures(key) is None:
            store.write(key, _measured(cell, judge, progress))
    return Reference(torch.from_numpy(store.images(key)), store.figures(key) or {})


def _measured(cell: Cell, judge: Judge, progress: ProgressReporter) -> Record:
    images = _drawn(cell, drawing_of(cell), progress)
    others = _drawn(
        cell, DrawRequest(cell.num_images, cell.num_steps, _OTHER_NOISE + cell.seed), progress
    )
    quality = judge.measure(images, None)
    figures = {
        "num_images": len(images),
        "noise_seed": _NOISE + cell.seed,
        "accuracy": quality.accuracy,
        "frechet_data": quality.frechet_data,
        "frechet_unpaired": judge.frechet(others, images),
        "frechet_unpaired_noise": frechet_noise(judge, others, images),
        "psnr_unpaired": psnr(others, images),
    }
    return Record(figures, images.numpy())


def _drawn(cell: Cell, request: DrawRequest, progress: ProgressReporter) -> torch.Tensor:
    checkpoint, family = load_checkpoint(cell.checkpoint), load_family(cell.family)
    pipeline = family.build_pipeline(checkpoint.model, checkpoint.scheduler_config, cell.checkpoint)
    progress.start("fp32", request.num_images)
    images: torch.Tensor = family.draw(pipeline, request, progress.advance)
    return images
