"""What a pipeline hands to its denoiser for some prompts: the conditions to calibrate with.

The pipeline itself is run up to the denoiser's first call, so that every pipeline's own tokens,
pooled texts, sizes, masks and unconditional halves come out as in use.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ...architectures import architecture_of
from ...errors import BundleError
from ...pipeline_folder import INDEX, PIPELINE, verified_index
from ...schedulers import build_scheduler
from ..denoiser_module import DenoiserModule
from .components import Heard, build, called

_STEPS = 4


def default_prompts() -> tuple[str, ...]:
    """Prompts of many kinds, for calibration where the user gives none."""
    text = files(__package__).joinpath("prompts.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def text_conditions(
    bundle: Path,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    prompts: Sequence[str],
    num_images: int,
) -> dict[str, torch.Tensor] | None:
    """Conditions for about ``num_images`` images, or None if the pipeline takes no prompt.

    ``bundle`` holds the pipeline's components. Half of the rows are the unconditional ones where
    the pipeline guides by default.
    """
    index, scheduler = verified_index(bundle), build_scheduler(scheduler_config)
    listener = DenoiserModule(_Listener(model_config))
    pipeline = build(bundle / PIPELINE, index, listener, scheduler)
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        return None
    count = max(1, num_images // 2)
    chosen = [prompts[place % len(prompts)] for place in range(count)]
    try:
        called(pipeline, prompt=chosen, num_inference_steps=_STEPS, output_type="latent")
    except Heard as heard:
        return heard.conditions
    raise BundleError(
        "The pipeline never called its denoiser", where=INDEX, why="Nothing was heard of it"
    )


class _Listener:
    """A denoiser that hears its first call and predicts nothing."""

    array_type: type = torch.Tensor

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.model_config = model_config

    def __call__(
        self, _sample: torch.Tensor, _timestep: float, **conditions: torch.Tensor
    ) -> torch.Tensor:
        specs = architecture_of(self.model_config).conditions(self.model_config)
        wanted = {spec.name: spec.dtype for spec in specs}
        raise Heard(
            {
                name: torch.from_numpy(value.detach().numpy().astype(wanted[name]))
                for name, value in conditions.items()
            }
        )
