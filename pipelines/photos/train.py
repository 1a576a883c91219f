"""Train the photos' diffusion model and its classifier from nothing.

    python -m mpq_export.pipelines.photos.train --out pipelines/photos/checkpoint

Seeded; an hour and a half on one core, less on a GPU. The diffusion model is written as a
diffusers pipeline folder with weights in float16, the classifier beside this script.
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
from ..denoising import Examples, cosine_scheduler, denoising_loss
from ..model_report import say_quality
from ..pretraining import SCRATCH, Loss, TrainingPlan, train
from .classifier import ROTATIONS, PhotoClassifier
from .data import IMAGE_SIZE, NUM_CLASSES, Patches, Photos, held_out_patches, load_photos
from .pipeline import PhotosPipeline
from .quality import NUM_HELD_OUT, PhotosJudge

CHECKPOINT = Path(__file__).parent / "checkpoint"
_WEIGHT_DECAY = 0.1
"""A decay of 1.0 shrank the inner levels faster than they learned, until their gradients were lost
in Adam's epsilon: see docs/results/photos_model.md."""


def build_unet() -> UNet2DModel:
    """2.3 M parameters; attention at 16x16 and 8x8."""
    return UNet2DModel(
        sample_size=IMAGE_SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 48, 80, 96),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
        num_class_embeds=NUM_CLASSES,
    )


def patches_of(source: Patches, batch_size: int) -> Examples:
    """Batches of patches, photographs and scales uniform."""

    def examples(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, NUM_CLASSES, (batch_size,), generator=generator)
        return source.cut(labels, generator), labels

    return examples


def classification_loss(source: Patches, batch_size: int) -> Loss:
    """Cross-entropy of the photograph and of the rotation, which is random."""
    examples = patches_of(source, batch_size)

    def loss(model: nn.Module, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        images, labels = examples(generator)
        turns = torch.randint(0, ROTATIONS, labels.shape, generator=generator)
        for quarter in range(1, ROTATIONS):
            images[turns == quarter] = images[turns == quarter].rot90(quarter, (2, 3))
        features = model.features(images.to(device))
        photograph = nn.functional.cross_entropy(model.photograph(features), labels.to(device))
        rotation = nn.functional.cross_entropy(model.rotation(features), turns.to(device))
        return photograph + rotation

    return loss


def train_classifier(photos: Photos, steps: int, seed: int, scratch: Path) -> None:
    """Train and write the classifier; says how it does on patches it has not seen."""
    plan = TrainingPlan("photos_classifier", steps, 128, 2e-3, 0.05, 0.99, seed)
    loss = classification_loss(photos.training, plan.batch_size)
    trained = train(PhotoClassifier, loss, plan, scratch)
    console.say(trained.summary)
    PhotoClassifier.save(trained.model)
    images, labels = held_out_patches(photos, NUM_HELD_OUT)
    right = (PhotoClassifier.load()(images).argmax(1) == labels).float().mean().item()
    console.say(f"classifier: {right:.1%} of {len(labels)} held-out patches")
    seen = photos.training.cut(labels, torch.Generator().manual_seed(seed))
    distance = PhotosJudge().frechet(seen / 2 + 0.5, images / 2 + 0.5)
    console.say(f"Frechet distance of training patches to held-out ones: {distance:.2f}")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the diffusers checkpoint.")] = CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Updates of the diffusion model.")] = 6000,
    classifier_steps: Annotated[int, typer.Option(help="Updates of the classifier.")] = 1500,
    batch_size: Annotated[int, typer.Option(help="Patches per update.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
    scratch: Annotated[Path, typer.Option(help="Where a training that is stopped goes on.")] = (
        SCRATCH
    ),
) -> None:
    """Train both models, write them, and say how good 1,000 drawn patches are."""
    photos, scheduler = load_photos(), cosine_scheduler("v_prediction")
    train_classifier(photos, classifier_steps, seed, scratch)
    examples = patches_of(photos.training, batch_size)
    plan = TrainingPlan("photos", steps, batch_size, 1e-3, _WEIGHT_DECAY, 0.999, seed)
    trained = train(build_unet, denoising_loss(scheduler, examples), plan, scratch)
    console.say(trained.summary)
    save_checkpoint(PhotosPipeline(trained.model, scheduler), out, torch.float16)
    say_quality("photos", out)


if __name__ == "__main__":
    console.run(main, "")
