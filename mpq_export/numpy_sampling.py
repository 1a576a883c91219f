"""Images from a denoiser without torch: for models whose samples are the images themselves.

The seed gives the noise that diffusers' pipelines draw from a torch generator of that seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architectures import architecture_of
from .conditions import ClassLabels
from .errors import BundleError
from .runtimes.denoiser import Denoiser
from .samplers.registry import open_sampler
from .samplers.sampler import Array, Sampler
from .samplers.torch_noise import TorchNoise

BATCH = 50
"""Images drawn at once; all noise is one stream, so that another number gives other images."""

Conditions = Mapping[str, NDArray[np.int64]]
Noise = Callable[[tuple[int, ...]], Array]
"""Standard normal numbers of a shape ``[B, C, H, W]``."""


def labels_in_turn(model_config: Mapping[str, Any], images: range) -> dict[str, NDArray[Any]]:
    """Every class in turn for each label input of the model, int64 ``[N]``; none if it has none.

    ``images`` are the numbers of the images, each of which decides its label.

    Raises :class:`BundleError` if the model takes anything else.
    """
    labels = {}
    for spec in architecture_of(model_config).conditions(model_config):
        if not isinstance(spec, ClassLabels):
            raise BundleError(
                f"The model takes '{spec.name}', which no other model is here to make",
                where="config.json",
                why="Without torch, images are drawn for class labels or nothing",
                fix="Call the bundle's Denoiser from a pipeline of your own",
            )
        labels[spec.name] = np.asarray(images, np.int64) % spec.classes
    return labels


def draw(
    denoiser: Denoiser[np.ndarray],
    scheduler_config: Mapping[str, Any],
    conditions: Conditions,
    num_images: int,
    num_steps: int,
    seed: int,
    on_images: Callable[[int], None] = lambda _: None,
) -> Array:
    """Images float32 ``[N, C, H, W]`` in [0, 1], drawn in batches; ``on_images`` reports progress.

    Args:
        denoiser: a model of images in [-1, 1]; further channels of its prediction, which hold a
            learned variance, are not used.
        scheduler_config: diffusers' scheduler config; see :func:`open_sampler` for what it raises.
        conditions: further inputs of the denoiser, one row per image.
        num_images: N.
        num_steps: sampler steps.
        seed: of all noise.
        on_images: called with the size of every batch that is done.
    """
    sampler, noise = open_sampler(scheduler_config, num_steps), TorchNoise(seed)
    config = denoiser.model_config
    shape = architecture_of(config).sample_shape(config)
    images = []
    for start in range(0, num_images, BATCH):
        part = {name: rows[start : start + BATCH] for name, rows in conditions.items()}
        count = min(BATCH, num_images - start)
        images.append(draw_batch(denoiser, sampler, part, (count, *shape), noise))
        on_images(count)
    return np.concatenate(images)


def draw_batch(
    denoiser: Denoiser[np.ndarray],
    sampler: Sampler,
    conditions: Conditions,
    shape: tuple[int, ...],
    noise: Noise,
) -> Array:
    """Images float32 of ``shape`` ``[B, C, H, W]`` in [0, 1], all at once; see :func:`draw`."""
    sample = noise(shape) * np.float32(sampler.initial_noise_scale)
    history: tuple[Array, ...] = ()
    for index, timestep in enumerate(sampler.timesteps):
        scaled = sampler.scale_input(sample, index)
        prediction = denoiser(scaled, float(timestep), **conditions)[:, : shape[1]]
        with np.errstate(all="ignore"):
            sample, history = sampler.step(index, sample, prediction, history, lambda: noise(shape))
    if not np.all(np.isfinite(sample)):
        raise BundleError(
            "The images are not finite",
            where="scheduler_config.json",
            why="The sampler divided by a signal of zero, or the model's predictions overflowed",
            fix="Try another number of steps or another --scheduler",
        )
    return np.clip(sample / 2 + np.float32(0.5), 0, 1)
