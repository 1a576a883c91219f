"""What the pixel models that ship here learn: to denoise, on a cosine schedule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import nn

from .pretraining import Loss

Examples = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]
"""One batch: images float32 ``[B, C, H, W]`` in [-1, 1] and labels int64 ``[B]``."""


def cosine_scheduler(prediction_type: str) -> DDIMScheduler:
    """Cosine schedule, last step at the clean end.

    ``prediction_type`` is ``"epsilon"`` or ``"v_prediction"``. Velocities give more weight to the
    noisy end, where class and colours are decided: a short training learns those first.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=False,
        clip_sample=True,
        clip_sample_range=1.0,
    )


def denoising_loss(scheduler: DDIMScheduler, examples: Examples) -> Loss:
    """Mean squared error of the prediction, timesteps uniform: of noise (Ho et al., arXiv
    2006.11239) or velocity (Salimans and Ho, arXiv 2202.00512), as the scheduler says.

    The model is called as UNet2DModel and DiTTransformer2DModel both can be.
    """
    timesteps_in_all = scheduler.config.num_train_timesteps
    of_velocity = scheduler.config.prediction_type == "v_prediction"

    def loss(model: nn.Module, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        images, labels = examples(generator)
        noise = torch.randn(images.shape, generator=generator)
        timesteps = torch.randint(0, timesteps_in_all, (len(images),), generator=generator)
        noisy = scheduler.add_noise(images, noise, timesteps).to(device)
        predicted = model(noisy, timesteps.to(device), class_labels=labels.to(device)).sample
        target = scheduler.get_velocity(images, noise, timesteps) if of_velocity else noise
        return nn.functional.mse_loss(predicted, target.to(device))

    return loss


def picked(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Examples:
    """Batches drawn from a data set with replacement."""

    def examples(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        pick = torch.randint(0, len(labels), (batch_size,), generator=generator)
        return images[pick], labels[pick]

    return examples


def with_dropped_labels(examples: Examples, null: int, share: float) -> Examples:
    """The same batches with a share of the labels replaced by that of no class."""

    def dropped(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = examples(generator)
        drop = torch.rand(labels.shape, generator=generator) < share
        return images, torch.where(drop, null, labels)

    return dropped
