"""Images by their numbers: number N depends on the seed and N alone.

So that any number of processes can share the work, and any of them can be killed. Every image has a
noise stream of its own, and is drawn in the batch of its number, which is always whole: on one
machine the same runtime gives the same bits, whoever draws and however often it was interrupted.
(:func:`.sampling.draw_images` draws all images of a grid from one stream.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .errors import BundleError
from .pipelines.registry import GENERAL, DrawRequest, family_registration, load_family
from .runtimes.denoiser import Denoiser, open_denoiser
from .runtimes.names import Runtime
from .runtimes.selection import Selection
from .sampling import SamplingLoop, loop_of, numpy_denoiser, pipeline_around
from .training.seeds import derived_seed

Images = NDArray[np.float32]

PIXELS_AT_ONCE, LATENTS_AT_ONCE = 16, 4
"""Images in a batch, of models of pixels and of whole pipelines. Another number is other bits."""
_SEEDS = 2**32
"""torch's generator on a processor takes no more."""


def image_seed(seed: int, image: int) -> int:
    """The seed of an image's noise: different for all images of a run, and for other seeds.

    Images of a run have seeds in a row, which begins where the run's seed leads by a hash.
    """
    return (derived_seed("images", seed) + image) % _SEEDS


@dataclass(frozen=True)
class Drawer:
    """Draws the images of a request, any of them in any order.

    Attributes:
        batch: images that are drawn at once; batch ``k`` begins with image ``k * batch``.
        loop: who takes the sampler's steps.
        draw_batch: the images of a whole batch, float32 ``[batch, C, H, W]`` in [0, 1].
        denoiser: what predicts.
    """

    batch: int
    loop: SamplingLoop
    draw_batch: Callable[[range], Images]
    denoiser: Denoiser[Any]

    @property
    def selection(self) -> Selection:
        """What runs the denoiser; on a GPU the first batch decides."""
        return self.denoiser.selection

    def draw(self, images: range, on_images: Callable[[int], None] = lambda _: None) -> Images:
        """The images of these numbers, float32 ``[N, C, H, W]`` in [0, 1].

        ``images`` are one after another. ``on_images`` is told how many more of them are done.
        """
        if images.step != 1 or not images:
            raise ValueError(f"{images} are not one or more images in a row")
        drawn = []
        for whole in self.batches(images):
            part = range(max(whole.start, images.start), min(whole.stop, images.stop))
            drawn.append(self.draw_batch(whole)[part.start - whole.start :][: len(part)])
            on_images(len(part))
        return np.concatenate(drawn)

    def batches(self, images: range) -> Iterator[range]:
        """The whole batches in which these images lie."""
        first, last = images.start // self.batch, -(-images.stop // self.batch)
        return (range(k * self.batch, (k + 1) * self.batch) for k in range(first, last))


def open_drawer(bundle: Bundle, runtime: Runtime, request: DrawRequest) -> Drawer:
    """A drawer of a bundle's images.

    Args:
        bundle: of a family that draws; its ``scheduler_config`` is what steps.
        runtime: where the denoiser runs.
        request: steps, seed, prompts and guidance; its number of images binds nothing.
    """
    family_registration(bundle.quantization.family)
    return drawer_around(bundle, open_denoiser(bundle, runtime), request)


def drawer_around(bundle: Bundle, denoiser: Denoiser[Any], request: DrawRequest) -> Drawer:
    """As :func:`open_drawer`, with another denoiser in the bundle's pipeline, such as
    :class:`~.runtimes.full_precision.FullPrecisionDenoiser`."""
    loop = loop_of(bundle)
    make = {SamplingLoop.DIFFUSERS: _by_diffusers, SamplingLoop.NUMPY: _by_numpy}[loop]
    family = family_registration(bundle.quantization.family)
    latent = family.name == GENERAL and loop is SamplingLoop.DIFFUSERS
    batch = LATENTS_AT_ONCE if latent else PIXELS_AT_ONCE
    return Drawer(batch, loop, make(bundle, denoiser, request), denoiser)


def _by_diffusers(
    bundle: Bundle, denoiser: Denoiser[Any], request: DrawRequest
) -> Callable[[range], Images]:
    import torch

    from .schedulers import sampling_schedule

    sampling_schedule(bundle.scheduler_config, request.num_steps)
    family = load_family(bundle.quantization.family)
    pipeline = pipeline_around(bundle, denoiser)

    def draw_batch(part: range) -> Images:
        seeds = (image_seed(request.seed, image) for image in part)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = np.asarray(family.draw_batch(pipeline, request, part, noise), np.float32)
        if not np.isfinite(images).all():
            raise BundleError(
                "The images are not finite",
                where=type(pipeline).__name__,
                why="The sampler divided by a signal of zero, or the predictions overflowed",
                fix="Try another number of steps or another --scheduler",
            )
        return images

    return draw_batch


def _by_numpy(
    bundle: Bundle, denoiser: Denoiser[Any], request: DrawRequest
) -> Callable[[range], Images]:
    from .architectures import architecture_of
    from .numpy_sampling import draw_batch, labels_in_turn
    from .samplers.registry import open_sampler
    from .samplers.torch_noise import NoiseOfImages

    config, predict = bundle.model_config, numpy_denoiser(bundle, denoiser, request)
    sampler = open_sampler(bundle.scheduler_config, request.num_steps)
    shape = architecture_of(config).sample_shape(config)

    def drawn(part: range) -> Images:
        noise = NoiseOfImages([image_seed(request.seed, image) for image in part])
        labels = labels_in_turn(config, part)
        images = draw_batch(predict, sampler, labels, (len(part), *shape), noise)
        return images.astype(np.float32, copy=False)

    return drawn
