"""What a lowered graph is fed with for one denoising step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..architectures import architecture_of
from ..lowering.graph_inputs import SAMPLE, STEP_INDEX, TIMESTEP
from ..schedulers import nearest_step


def graph_feeds(
    model_config: Mapping[str, Any],
    timesteps: np.ndarray,
    sample: np.ndarray,
    timestep: float,
    conditions: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The exported graph's inputs for one denoising step.

    Raises TypeError unless exactly the model's conditions are given.
    """
    specs = {spec.name: spec for spec in architecture_of(model_config).conditions(model_config)}
    if specs.keys() != conditions.keys():
        raise TypeError(f"the model takes {sorted(specs)}, it was given {sorted(conditions)}")
    return {
        SAMPLE: np.asarray(sample, np.float32),
        TIMESTEP: np.array([timestep], np.float32),
        STEP_INDEX: np.array([nearest_step(timesteps, float(timestep))], np.int32),
        **{name: np.asarray(value, specs[name].dtype) for name, value in conditions.items()},
    }
