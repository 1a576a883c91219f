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
from ...checkpoints.configs import read_config
from ...errors import CheckpointError
from ...pipeline_folder import INDEX
from ...schedulers import build_scheduler
from ..denoiser_module import DenoiserModule
from .components import build

_STEPS = 4


def default_prompts() -> tuple[str, ...]:
    """Prompts of many kinds, for calibration where the user gives none."""
    text = files(__package__).joinpath("prompts.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def text_conditions(
    pipeline: Path,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    prompts: Sequence[str],
    num_images: int,
) -> dict[str, torch.Tensor] | None:
    """Conditions for about ``num_images`` images, or None if the pipeline takes no prompt.

    ``pipeline`` is the full-precision pipeline's folder. Half of the rows are the unconditional
    ones where the pipeline guides by default.
    """
    index = read_config(pipeline / INDEX)
    listener = _Listener(model_config)
    built = build(pipeline, index, DenoiserModule(listener), build_scheduler(scheduler_config))
    if "prompt" not in inspect.signature(built.__call__).parameters:
        return None
    count = max(1, num_images // 2)
    chosen = [prompts[place % len(prompts)] for place in range(count)]
    try:
        built(prompt=chosen, num_inference_steps=_STEPS, output_type="latent")
    except _HeardError as heard:
        return heard.conditions
    raise CheckpointError(
        "The pipeline never called its denoiser", where=pipeline, why="Nothing was heard of it"
    )


class _HeardError(Exception):
    """Carries the conditions out of the pipeline's loop."""

    def __init__(self, conditions: dict[str, torch.Tensor]) -> None:
        super().__init__("the denoiser was called")
        self.conditions = conditions


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
        raise _HeardError(
            {
                name: torch.from_numpy(value.detach().numpy().astype(wanted[name]))
                for name, value in conditions.items()
            }
        )
