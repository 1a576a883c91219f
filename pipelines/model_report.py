"""What the models that ship here are: parameters, image quality, and the tails of their weights.

    python -m mpq_export.pipelines.model_report photos --out docs/results

Writes ``NAME_model.json``, and ``NAME_model.png``: drawn images on the left, data on the right.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ..architectures import architecture_of
from ..checkpoints import Checkpoint, load_checkpoint
from ..cli import console
from ..core.bit_allocation import kurtosis
from ..core.layers import Quantizable, weight_matrix
from ..evaluation.machine import describe_machine
from ..files import staged_file, write_json
from .images import grid
from .registry import DrawRequest, load_family, load_judge

STEPS = (20, 50)
KURTOSIS_EDGES = (0, 1.8, 2, 2.5, 3, 3.5, 4, 5, 7, 10, 20, math.inf)
"""Bins of the histogram; a uniform distribution has 1.8, a normal one 3, a Laplace one 6."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHOWN_ROWS, _SHOWN_COLUMNS = 8, 10


def shipped_checkpoint(family: str) -> Path:
    """The folder of the checkpoint that ships with a family."""
    return Path(__file__).parent / family / "checkpoint"


def drawn(checkpoint: Checkpoint, num_images: int, num_steps: int, seed: int) -> torch.Tensor:
    """Images ``[N, C, H, W]`` in [0, 1] of a family's full-precision model."""
    family = load_family(checkpoint.family)
    scheduler = checkpoint.scheduler_config
    pipeline = family.build_pipeline(checkpoint.model, scheduler, checkpoint.pipeline)
    with console.TaskProgress() as progress:
        progress.start(f"{num_steps} steps", num_images)
        return family.draw(pipeline, DrawRequest(num_images, num_steps, seed), progress.advance)


def say_quality(family: str, folder: Path, num_images: int = 1000, seed: int = 1) -> None:
    """Say how good the images of a checkpoint are, as it is read back from its folder."""
    checkpoint, judge = load_checkpoint(folder), load_judge(family)
    for steps in STEPS:
        quality = judge.measure(drawn(checkpoint, num_images, steps, seed), None)
        console.say(
            f"{family}, {num_images} images in {steps} steps: {quality.accuracy:.1%} are as asked, "
            f"Frechet distance to data {quality.frechet_data:.2f}"
        )


def weight_kurtosis(checkpoint: Checkpoint) -> np.ndarray:
    """Kurtosis of every channel of the layers that take the requested bits, float64 ``[N]``."""
    architecture = architecture_of(checkpoint.model_config)
    return np.concatenate(
        [
            kurtosis(weight_matrix(module).numpy())
            for name, module in checkpoint.model.named_modules()
            if isinstance(module, Quantizable) and architecture.eight_bit_reason(name) is None
        ]
    )


def kurtosis_summary(channels: np.ndarray) -> dict[str, Any]:
    """Quantiles and histogram."""
    counts, _ = np.histogram(channels, KURTOSIS_EDGES)
    quantiles = {f"{share:.0%}": float(np.quantile(channels, share)) for share in _QUANTILES}
    names = [f"{low:g} to {high:g}" for low, high in pairwise(KURTOSIS_EDGES)]
    return {
        "channels": len(channels),
        "quantiles": quantiles,
        "histogram": dict(zip(names, counts.tolist(), strict=True)),
    }


def model_report(
    family: str, folder: Path, num_images: int, seed: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """All figures of a checkpoint, and the images that it drew in the fewest steps."""
    checkpoint, judge = load_checkpoint(folder), load_judge(family)
    images = {steps: drawn(checkpoint, num_images, steps, seed) for steps in STEPS}
    again = drawn(checkpoint, num_images, STEPS[0], seed + 1)
    parameters = [parameter.numel() for parameter in checkpoint.model.parameters()]
    files = [file for file in folder.rglob("*") if file.is_file()]
    report = {
        "command": "python -m mpq_export.pipelines.model_report "
        f"{family} --num-images {num_images} --seed {seed}",
        "machine": describe_machine(),
        "family": family,
        "parameters": sum(parameters),
        "checkpoint_bytes": sum(file.stat().st_size for file in files),
        "num_images": num_images,
        "quality": {steps: asdict(judge.measure(images[steps], None)) for steps in STEPS},
        "frechet_unpaired": judge.frechet(again, images[STEPS[0]]),
        "kurtosis": kurtosis_summary(weight_kurtosis(checkpoint)),
    }
    return report, images[STEPS[0]]


def side_by_side(images: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """Rows of drawn images, each followed by as many of the data; for twice the columns."""
    count = _SHOWN_ROWS * _SHOWN_COLUMNS
    rows = [part[:count].split(_SHOWN_COLUMNS) for part in (images, data)]
    return torch.cat([row for pair in zip(*rows, strict=True) for row in pair])


def main(
    family: Annotated[str, typer.Argument(help="Name of a family whose checkpoint ships.")],
    out: Annotated[Path, typer.Option(help="Folder of figures and picture.")] = Path(
        "docs/results"
    ),
    num_images: Annotated[int, typer.Option(min=100, help="Images that are judged.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 1,
) -> None:
    """Measure a shipped model and draw it beside its data."""
    report, images = model_report(family, shipped_checkpoint(family), num_images, seed)
    with staged_file(out / f"{family}_model.json") as stage:
        write_json(stage, report)
    shown = side_by_side(images, load_judge(family).data)
    with staged_file(out / f"{family}_model.png") as stage:
        grid(shown.numpy(), 2 * _SHOWN_COLUMNS).save(stage)
    console.print_json(report)


if __name__ == "__main__":
    console.run(main, "")
