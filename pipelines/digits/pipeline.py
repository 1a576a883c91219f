"""The diffusers pipeline of the digits family; the denoiser may run in any runtime."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor


class DigitsPipeline(DiffusionPipeline):
    """Class-conditional sampling of 16x16 grey images.

    ``unet`` is a ``UNet2DModel`` or anything that is called and configured like one.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | torch.Tensor,
        num_inference_steps: int = 20,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image per label.

        Args:
            class_labels: the digits to draw, each 0..9.
            num_inference_steps: sampler steps, any number up to the training timesteps.
            eta: for DDIM: 0 is deterministic, 1 adds DDPM's noise. Other schedulers ignore it.
            generator: source of the initial noise, and of the scheduler's.
            output_type: ``"pil"``, ``"np"`` (``[N, 16, 16, 1]`` in [0, 1]) or ``"pt"``
                (``[N, 1, 16, 16]`` in [0, 1]).
        """
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device)
        config = self.unet.config
        shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
        sample = randn_tensor(shape, generator=generator, device=self._execution_device)
        self.scheduler.set_timesteps(num_inference_steps)
        sample = sample * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"eta": eta, "generator": generator}
        options = {name: value for name, value in options.items() if name in accepted}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(sample, timestep)
            noise = self.unet(scaled, timestep, class_labels=labels).sample
            sample = self.scheduler.step(noise, timestep, sample, **options).prev_sample
        images = (sample / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return ImagePipelineOutput(images=images)
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)
