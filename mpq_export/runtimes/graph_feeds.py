"""What a lowered graph is fed with for one denoising step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..architectures import architecture_of
from ..conditions import ClassLabels, Condition
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

    Raises TypeError unless exactly the model's conditions are given, IndexError for a label that
    the model does not have.
    """
    specs = {spec.name: spec for spec in architecture_of(model_config).conditions(model_config)}
    if specs.keys() != conditions.keys():
        raise TypeError(f"the model takes {sorted(specs)}, it was given {sorted(conditions)}")
    return {
        SAMPLE: np.asarray(sample, np.float32),
        TIMESTEP: np.array([timestep], np.float32),
        STEP_INDEX: np.array([nearest_step(timesteps, float(timestep))], np.int32),
        **{name: _checked(specs[name], value) for name, value in conditions.items()},
    }


def _checked(spec: Condition, value: np.ndarray) -> np.ndarray:
    given = np.asarray(value, spec.dtype)
    # ONNX counts negative numbers from the end: -1 would be the last label, without a word.
    if isinstance(spec, ClassLabels) and np.any((given < 0) | (given >= spec.count)):
        raise IndexError(f"{spec.name} are 0 to {spec.count - 1}, not {given.tolist()}")
    return given
