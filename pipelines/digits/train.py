"""Train the digits diffusion model and its classifier from nothing, in minutes on two cores.

    python -m mpq_export.pipelines.digits.train --out pipelines/digits/checkpoint

Both are seeded; the same machine gives the same files. The diffusion model is written as a
diffusers pipeline folder, the classifier beside this script.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import DDIMScheduler, UNet2DModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


def build_scheduler() -> DDIMScheduler:
    """Cosine schedule, noise prediction, last step at the clean end."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=False,
        clip_sample=True,
        clip_sample_range=1.0,
    )


def progress_bar() -> Progress:
    """Progress on the terminal with the running loss."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )


def random_shift(images: torch.Tensor, limit: int, fill: float = -1.0) -> torch.Tensor:
    """Move every image by up to ``limit`` pixels in each direction."""
    n, _, h, w = images.shape
    padded = torch.nn.functional.pad(images, (limit,) * 4, value=fill)
    dy, dx = torch.randint(0, 2 * limit + 1, (2, n, 1, 1))
    rows = torch.arange(h)[None, :, None] + dy
    columns = torch.arange(w)[None, None, :] + dx
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


def train_classifier(
    train: DigitSplit, test: DigitSplit, steps: int, seed: int
) -> tuple[DigitClassifier, float]:
    """Returns the classifier and its accuracy on the test split."""
    torch.manual_seed(seed)
    model = DigitClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with progress_bar() as bar:
        task = bar.add_task("classifier", total=steps, loss=float("nan"))
        for _ in range(steps):
            pick = torch.randint(0, len(train.labels), (128,))
            images = random_shift(train.images[pick], 1)
            images = images + 0.1 * torch.randn_like(images)
            loss = torch.nn.functional.cross_entropy(
                model(images), train.labels[pick], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(task, advance=1, loss=loss.item())
    model.eval().requires_grad_(False)
    accuracy = (model(test.images).argmax(1) == test.labels).float().mean().item()
    return model, accuracy


def train_unet(
    data: DigitSplit, scheduler: DDIMScheduler, steps: int, batch_size: int, seed: int
) -> UNet2DModel:
    """Returns the exponential moving average of the trained weights."""
    torch.manual_seed(seed)
    model = build_unet()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.05)
    with progress_bar() as bar:
        task = bar.add_task("diffusion", total=steps, loss=float("nan"))
        for step in range(steps):
            pick = torch.randint(0, len(data.labels), (batch_size,))
            images, labels = data.images[pick], data.labels[pick]
            noise = torch.randn_like(images)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (batch_size,))
            noisy = scheduler.add_noise(images, noise, timesteps)
            predicted = model(noisy, timesteps, class_labels=labels).sample
            loss = torch.nn.functional.mse_loss(predicted, noise)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(average.parameters()), list(model.parameters()), 1 - decay
                )
            bar.update(task, advance=1, loss=loss.item())
    return average.eval()


def agreement(
    unet: UNet2DModel, scheduler: DDIMScheduler, classifier: DigitClassifier, count: int, steps: int
) -> float:
    """Share of ``count`` generated images that the classifier labels as asked."""
    pipeline = DigitsPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    labels = torch.arange(count) % NUM_CLASSES
    generator = torch.Generator().manual_seed(1)
    right = 0
    for part in labels.split(250):
        images = pipeline(part, steps, generator=generator, output_type="pt").images
        right += (classifier(images * 2 - 1).argmax(1) == part).sum().item()
    return right / count


def main(
    out: Annotated[Path, typer.Option(help="Folder of the diffusers checkpoint.")] = CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Updates of the diffusion model.")] = 4000,
    classifier_steps: Annotated[int, typer.Option(help="Updates of the classifier.")] = 1500,
    batch_size: Annotated[int, typer.Option(help="Images per update.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
) -> None:
    """Train both models, write them, and say how many of 1,000 drawn digits are as asked."""
    digits = load_digits()
    classifier, accuracy = train_classifier(
        digits.classifier_train, digits.classifier_test, classifier_steps, seed
    )
    print(f"classifier: {accuracy:.1%} of its {len(digits.classifier_test.labels)} test images")
    classifier.save()
    scheduler = build_scheduler()
    unet = train_unet(digits.diffusion, scheduler, steps, batch_size, seed)
    DigitsPipeline(unet, scheduler).save_pretrained(out)
    for inference_steps in (20, 50):
        share = agreement(unet, scheduler, classifier, 1000, inference_steps)
        print(f"{share:.1%} of 1,000 digits drawn in {inference_steps} steps are as asked")


if __name__ == "__main__":
    typer.run(main)
