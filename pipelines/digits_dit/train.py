"""Train the digits' transformer from nothing, in minutes on one core.

    python -m mpq_export.pipelines.digits_dit.train --out pipelines/digits_dit/checkpoint

Seeded, and trained on the same digits as the UNet of ``pipelines/digits``, whose classifier judges
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from diffusers import DiTTransformer2DModel
from torch import nn

from ...cli import console
from ..checkpoint_folder import save_checkpoint
from ..denoising import cosine_scheduler, denoising_loss, picked, with_dropped_labels
from ..digits.data import IMAGE_SIZE, NUM_CLASSES, load_digits
from ..model_report import say_quality
from ..pretraining import SCRATCH, TrainingPlan, train
from .pipeline import DigitsDiTPipeline

CHECKPOINT = Path(__file__).parent / "checkpoint"
_DROPPED_LABELS = 0.1


def build_transformer() -> DiTTransformer2DModel:
    """1.0 M parameters, 64 tokens of 2x2 pixels; every block starts as the identity (adaLN-Zero,
    Peebles and Xie, arXiv 2212.09748), which diffusers leaves to the trainer."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        num_layers=5,
        in_channels=1,
        out_channels=1,
        sample_size=IMAGE_SIZE,
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    modulations = [block.norm1.linear for block in model.transformer_blocks]
    for layer in (*modulations, model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.2)
    return model


def main(
    out: Annotated[Path, typer.Option(help="Folder of the diffusers checkpoint.")] = CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Updates.")] = 4000,
    batch_size: Annotated[int, typer.Option(help="Images per update.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    scratch: Annotated[Path, typer.Option(help="Where a training that is stopped goes on.")] = (
        SCRATCH
    ),
) -> None:
    """Train the transformer, write it, and say how many of 1,000 drawn digits are as asked."""
    data, scheduler = load_digits().diffusion, cosine_scheduler("v_prediction")
    examples = picked(data.images, data.labels, batch_size)
    examples = with_dropped_labels(examples, NUM_CLASSES, _DROPPED_LABELS)
    plan = TrainingPlan("digits_dit", steps, batch_size, 1e-3, 0.5, 0.998, seed)
    trained = train(build_transformer, denoising_loss(scheduler, examples), plan, scratch)
    console.say(trained.summary)
    save_checkpoint(DigitsDiTPipeline(trained.model, scheduler), out)
    say_quality("digits_dit", out)


if __name__ == "__main__":
    console.run(main, "")
