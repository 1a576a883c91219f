"""Pixel models with class labels: their diffusers pipeline, and how images of them are drawn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers import (
    DiffusionPipeline,
    DiTTransformer2DModel,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.utils.torch_utils import randn_tensor

from ..numpy_sampling import BATCH
from ..schedulers import build_scheduler, scheduler_at_work
from .registry import DrawRequest, family_of_pipeline_class

Generators = torch.Generator | list[torch.Generator]
"""Where noise comes from: one stream for a batch, or one for each of its images."""


class ClassConditionalPipeline(DiffusionPipeline):
    """Class-conditional sampling of images in pixel space.

    Families derive from :class:`UNetPixelPipeline` or :class:`DiTPixelPipeline` and say how many
    classes they have; the denoiser may run in any runtime.
    """

    num_classes: ClassVar[int]

    @property
    def denoiser(self) -> Any:
        """The model, or what is called and configured like it."""
        raise NotImplementedError

    @classmethod
    def around(cls, denoiser: Any, scheduler_config: Mapping[str, Any]) -> Self:
        """The pipeline of a denoiser, without a progress bar of its own."""
        pipeline = cls(denoiser, build_scheduler(scheduler_config))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | torch.Tensor,
        num_inference_steps: int = 20,
        eta: float = 0.0,
        generator: Generators | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
    ) -> ImagePipelineOutput:
        """Draw one image per label.

        Args:
            class_labels: what to draw, each 0 to ``num_classes - 1``.
            num_inference_steps: sampler steps, any number up to the training timesteps.
            eta: for DDIM: 0 is deterministic, 1 adds DDPM's noise. Other schedulers ignore it.
            generator: source of the initial noise, and of the scheduler's; a list has one for
                every label.
            output_type: ``"pil"``, ``"np"`` (``[N, H, W, C]`` in [0, 1]) or ``"pt"``
                (``[N, C, H, W]`` in [0, 1]).
            callback_on_step_end: called with the pipeline, the step, its timestep and
                ``{"latents": sample}`` after every step, as in diffusers; what it returns may have
                other ``latents``.
        """
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device)
        config = self.denoiser.config
        size = config.sample_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (len(labels), config.in_channels, *sides)
        sample = randn_tensor(shape, generator=generator, device=self._execution_device)
        with scheduler_at_work():
            self.scheduler.set_timesteps(num_inference_steps)
            sample = sample * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"eta": eta, "generator": generator}
        options = {name: value for name, value in options.items() if name in accepted}
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            with scheduler_at_work():
                scaled = self.scheduler.scale_model_input(sample, timestep)
            times = timestep.expand(len(labels)).to(sample.device)  # DiT takes one for each image
            noise = self.denoiser(scaled, times, class_labels=labels).sample
            with scheduler_at_work():
                sample = self.scheduler.step(noise, timestep, sample, **options).prev_sample
            if callback_on_step_end is not None:
                told = callback_on_step_end(self, step, timestep, {"latents": sample})
                sample = told.get("latents", sample)
        images = (sample / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return ImagePipelineOutput(images=images)
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)


class UNetPixelPipeline(ClassConditionalPipeline):
    """Around a ``UNet2DModel``, or anything that is called and configured like one."""

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet


class LabelledPixelPipeline(UNetPixelPipeline):
    """Around a ``UNet2DModel`` of any number of classes, for which diffusers has no pipeline."""

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Labels of the model's class embedding."""
        return int(self.unet.config.num_class_embeds)


class DiTPixelPipeline(ClassConditionalPipeline):
    """Around a ``DiTTransformer2DModel``, or anything that is called and configured like one."""

    model_cpu_offload_seq = "transformer"

    def __init__(self, transformer: DiTTransformer2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.transformer


def classes_in_turn(images: range, num_classes: int) -> torch.Tensor:
    """The class asked for in every image, by its number, int64 ``[N]``."""
    return torch.tensor(images, dtype=torch.long) % num_classes


def draw(
    pipeline: ClassConditionalPipeline,
    request: DrawRequest,
    on_images: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Images float32 ``[N, C, H, W]`` in [0, 1], labels in turn, all noise from one seed.

    They are drawn in batches; ``on_images`` reports progress.
    """
    generator = torch.Generator().manual_seed(request.seed)
    images = []
    for start in range(0, request.num_images, BATCH):
        part = range(start, min(start + BATCH, request.num_images))
        images.append(draw_batch(pipeline, request, part, generator))
        on_images(len(part))
    return torch.cat(images)


def draw_batch(
    pipeline: ClassConditionalPipeline, request: DrawRequest, part: range, noise: Generators
) -> torch.Tensor:
    """The images of these numbers, float32 ``[B, C, H, W]`` in [0, 1], all at once."""
    family = family_of_pipeline_class(type(pipeline).__name__)
    request = request.without_text(family or type(pipeline).__name__)
    labels = classes_in_turn(part, pipeline.num_classes)
    drawn: torch.Tensor = pipeline(
        labels, request.num_steps, generator=noise, output_type="pt"
    ).images
    return drawn
