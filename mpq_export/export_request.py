"""What is to be made of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .lowering.names import Target
from .methods.recipe import Recipe
from .precision import BitSpec


@dataclass(frozen=True)
class ExportRequest:
    """An export.

    Attributes:
        bits: of layers that no rule says otherwise of.
        recipe: choices.
        targets: what the bundle is lowered to.
        num_steps: sampler steps, each with its activation table.
        seed: of calibration and training.
        out: the bundle's folder.
        float16: lower to float16 between the nodes.
        prompts: to calibrate and train whole pipelines that draw from texts; None is a list of
            many kinds.
        resume: go on with the training run that was left beside ``out``.
    """

    bits: BitSpec
    recipe: Recipe
    targets: tuple[Target, ...]
    num_steps: int
    seed: int
    out: Path
    float16: bool = False
    prompts: Sequence[str] | None = None
    resume: bool = False
