"""Images from a bundle: its family's pipeline around a denoiser of the chosen runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bundle import Bundle
from .pipelines.registry import load_family
from .progress import ProgressReporter
from .runtimes.denoiser import open_denoiser
from .runtimes.names import Runtime

if TYPE_CHECKING:
    import torch


def open_pipeline(bundle: Bundle, runtime: Runtime) -> Any:
    """The diffusers pipeline of a bundle's family, its denoiser running in ``runtime``."""
    from .pipelines.denoiser_module import DenoiserModule

    family = load_family(bundle.quantization.family)
    denoiser = open_denoiser(bundle, runtime)
    return family.build_pipeline(DenoiserModule(denoiser), bundle.scheduler_config)


def draw_images(
    bundle: Bundle,
    runtime: Runtime,
    num_images: int,
    num_steps: int,
    seed: int,
    progress: ProgressReporter,
) -> torch.Tensor:
    """Float32 ``[N, C, H, W]`` in [0, 1]; the same seed gives the same noise in every runtime."""
    from .schedulers import sampling_schedule

    sampling_schedule(bundle.scheduler_config, num_steps)
    family = load_family(bundle.quantization.family)
    progress.start("sample", num_images)
    return family.draw(
        open_pipeline(bundle, runtime), num_images, num_steps, seed, progress.advance
    )
