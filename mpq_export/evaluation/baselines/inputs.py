"""Drawn inputs of a denoising step, by the names that graphs give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...architectures import architecture_of
from ...lowering.graph_inputs import SAMPLE, TIMESTEP

Inputs = dict[str, np.ndarray]
_TRAINED_TIMESTEPS = 1000


def draw_inputs(model_config: Mapping[str, Any], batch: int, rng: np.random.Generator) -> Inputs:
    """Noise ``[B, C, H, W]``, a timestep float32 ``[1]``, and the model's conditions."""
    architecture = architecture_of(model_config)
    shape = (batch, *architecture.sample_shape(model_config))
    return {
        SAMPLE: rng.standard_normal(shape, dtype=np.float32),
        TIMESTEP: rng.integers(0, _TRAINED_TIMESTEPS, 1).astype(np.float32),
        **{spec.name: spec.draw(batch, rng) for spec in architecture.conditions(model_config)},
    }


def calibration_inputs(model_config: Mapping[str, Any], batch: int = 2) -> list[Inputs]:
    """What peers fit their activation ranges to: few draws, since only speed is measured."""
    rng = np.random.default_rng(0)
    return [draw_inputs(model_config, batch, rng) for _ in range(4)]
