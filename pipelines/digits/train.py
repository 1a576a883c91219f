"""Train the digits diffusion model and its classifier from nothing, in minutes on two cores.

    python -m mpq_export.pipelines.digits.train --out pipelines/digits/checkpoint

Both are seeded; the same machine gives the same files. The diffusion model is written as a
diffusers pipeline folder, the classifier beside this script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import UNet2DModel
from torch import nn

from ...cli import console
from ..checkpoint_folder import save_checkpoint
from ..denoising import cosine_scheduler, denoising_loss, picked
from ..model_report import say_quality
from ..pretraining import SCRATCH, Loss, TrainingPlan, train
from .classifier import DigitClassifier
from .data import IMAGE_SIZE, NUM_CLASSES, DigitSplit, load_digits
from .pipeline import DigitsPipeline

CHECKPOINT = Path(__file__).parent / "checkpoint"


def build_unet() -> UNet2DModel:
    """1.3 M parameters; attention at 8x8 and 4x4."""
    return UNet2DModel(
        sample_size=IMAGE_SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 72),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
        num_class_embeds=NUM_CLASSES,
    )


def random_shift(
    images: torch.Tensor, limit: int, generator: torch.Generator, fill: float = -1.0
) -> torch.Tensor:
    """Move every image ``[N, 1, H, W]`` by up to ``limit`` pixels in each direction."""
    n, _, h, w = images.shape
    padded = nn.functional.pad(images, (limit,) * 4, value=fill)
    dy, dx = torch.randint(0, 2 * limit + 1, (2, n, 1, 1), generator=generator)
    rows = torch.arange(h)[None, :, None] + dy
    columns = torch.arange(w)[None, None, :] + dx
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


def classification_loss(data: DigitSplit, batch_size: int) -> Loss:
    """Cross-entropy of shifted, noisy digits."""
    examples = picked(data.images, data.labels, batch_size)

    def loss(model: nn.Module, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        images, labels = examples(generator)
        images = random_shift(images, 1, generator)
        images = images + 0.1 * torch.randn(images.shape, generator=generator)
        logits = model(images.to(device))
        return nn.functional.cross_entropy(logits, labels.to(device), label_smoothing=0.05)

    return loss


def main(
    out: Annotated[Path, typer.Option(help="Folder of the diffusers checkpoint.")] = CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Updates of the diffusion model.")] = 4000,
    classifier_steps: Annotated[int, typer.Option(help="Updates of the classifier.")] = 1500,
    batch_size: Annotated[int, typer.Option(help="Images per update.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
    scratch: Annotated[Path, typer.Option(help="Where a training that is stopped goes on.")] = (
        SCRATCH
    ),
) -> None:
    """Train both models, write them, and say how many of 1,000 drawn digits are as asked."""
    digits = load_digits()
    plan = TrainingPlan("digits_classifier", classifier_steps, 128, 2e-3, 0.05, 0.99, seed)
    loss = classification_loss(digits.classifier_train, plan.batch_size)
    classifier = train(DigitClassifier, loss, plan, scratch)
    console.say(classifier.summary)
    DigitClassifier.save(classifier.model)
    test = digits.classifier_test
    right = (DigitClassifier.load()(test.images).argmax(1) == test.labels).float().mean().item()
    console.say(f"classifier: {right:.1%} of its {len(test.labels)} test images")
    scheduler = cosine_scheduler("epsilon")
    examples = picked(digits.diffusion.images, digits.diffusion.labels, batch_size)
    plan = TrainingPlan("digits", steps, batch_size, 1e-3, 0.01, 0.998, seed)
    trained = train(build_unet, denoising_loss(scheduler, examples), plan, scratch)
    console.say(trained.summary)
    save_checkpoint(DigitsPipeline(trained.model, scheduler), out)
    say_quality("digits", out)


if __name__ == "__main__":
    console.run(main, "")
