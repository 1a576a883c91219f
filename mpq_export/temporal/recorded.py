"""A diffusers denoiser as a tape of calls, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..architectures import architecture_of
from ..core.call_tape import CallTape, record_calls
from ..core.temporal import TIMESTEP
from ..lowering.graph_inputs import SAMPLE
from ..prediction import predict


def record_model(model: nn.Module, model_config: Mapping[str, Any], batch: int) -> CallTape:
    """One prediction for ``batch`` images, each with a timestep; inputs are called as in an
    exported graph."""
    architecture = architecture_of(model_config)
    specs = architecture.conditions(model_config)
    rng = np.random.default_rng(0)
    inputs = {
        SAMPLE: torch.zeros(batch, *architecture.sample_shape(model_config)),
        TIMESTEP: torch.zeros(batch),
        **{spec.name: torch.from_numpy(spec.draw(batch, rng)) for spec in specs},
    }

    def forward(empty: nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        conditions = {spec.name: given[spec.name] for spec in specs}
        return predict(empty, model_config, given[SAMPLE], given[TIMESTEP], conditions)

    return record_calls(model, inputs, forward)
