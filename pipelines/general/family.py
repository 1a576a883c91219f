"""How any diffusers pipeline draws: from prompts, class labels, or nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import BundleError, RecipeError
from ...pipeline_folder import PIPELINE, further_components, verified_index
from ...schedulers import build_scheduler
from ..class_conditional import LabelledPixelPipeline
from ..registry import DrawRequest
from .components import build, called

BATCH = 4
"""Images drawn at once."""


def build_pipeline(denoiser: Any, scheduler_config: Mapping[str, Any], bundle: Path) -> Any:
    """The pipeline whose components lie in a bundle, around its denoiser.

    diffusers has no pipeline for pixels and labels: a model of these alone, which its trainers save
    under an unconditional pipeline's name, gets ours.
    """
    index = verified_index(bundle)
    alone = not further_components(index) and _is_plain_unet(index)
    if alone and getattr(denoiser.config, "num_class_embeds", None):
        return LabelledPixelPipeline.around(denoiser, scheduler_config)
    return build(bundle / PIPELINE, index, denoiser, build_scheduler(scheduler_config))


def _is_plain_unet(index: Mapping[str, Any]) -> bool:
    """Other models have class embeddings, too, and are called with more than labels."""
    entry = index.get("unet")
    return isinstance(entry, list) and entry[1:] == ["UNet2DModel"]


def draw(
    pipeline: Any, request: DrawRequest, on_images: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """Images ``[N, C, H, W]`` in [0, 1], a few at a time; ``on_images`` reports progress."""
    generator = torch.Generator().manual_seed(request.seed)
    images = []
    for start in range(0, request.num_images, BATCH):
        part = range(start, min(start + BATCH, request.num_images))
        images.append(draw_batch(pipeline, request, part, generator))
        on_images(len(part))
    return np.concatenate(images)


def draw_batch(
    pipeline: Any,
    request: DrawRequest,
    part: range,
    noise: torch.Generator | list[torch.Generator],
) -> np.ndarray:
    """The images of these numbers, float32 ``[B, C, H, W]`` in [0, 1], all at once."""
    accepted = inspect.signature(pipeline.__call__).parameters
    options: dict[str, Any] = {
        "num_inference_steps": request.num_steps,
        "generator": noise,
        "output_type": "np",
    }
    if request.guidance is not None:
        if "guidance_scale" not in accepted:
            name = type(pipeline).__name__
            raise RecipeError(f"{name} takes no guidance", where="--guidance", fix="Leave it out")
        options["guidance_scale"] = request.guidance
    subjects = _subjects(pipeline, accepted, request, part)
    drawn = np.asarray(called(pipeline, **subjects, **options).images, np.float32)
    if not np.isfinite(drawn).all():
        raise BundleError(
            "The images are not finite",
            where=type(pipeline).__name__,
            why="The model or its guidance left the range of float32",
        )
    return drawn.transpose(0, 3, 1, 2)


def _subjects(
    pipeline: Any, accepted: Mapping[str, Any], request: DrawRequest, places: range
) -> dict[str, Any]:
    """What the images at ``places`` are to show, as the pipeline's argument."""
    if "prompt" in accepted:
        if not request.prompts:
            raise RecipeError(
                f"{type(pipeline).__name__} draws from a text", where="--prompt", fix="Give one"
            )
        return {"prompt": [request.prompts[place % len(request.prompts)] for place in places]}
    if request.prompts:
        raise RecipeError(
            f"{type(pipeline).__name__} takes no text", where="--prompt", fix="Leave it out"
        )
    if "class_labels" in accepted:
        labelled = isinstance(pipeline, LabelledPixelPipeline)
        classes = (
            pipeline.num_classes if labelled else pipeline.transformer.config.num_embeds_ada_norm
        )
        return {"class_labels": [place % classes for place in places]}
    if "batch_size" in accepted:
        return {"batch_size": len(places)}
    raise RecipeError(
        f"{type(pipeline).__name__} cannot be called from here",
        where="model_index.json",
        why="It takes neither a prompt, nor class labels, nor a batch size",
        fix="Open it with mpq_export.sampling.open_pipeline and call it yourself",
    )
