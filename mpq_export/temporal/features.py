"""Temporal features of a model, whatever its layers are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..core.planes import ContractError
from ..core.temporal import RunLayer, TemporalBlock
from ..errors import LayerError


def run_block(
    block: TemporalBlock,
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    run_layer: RunLayer,
) -> dict[str, torch.Tensor]:
    """As :meth:`.TemporalBlock.run`. Raises LayerError where a layer gives several features in one
    step, of which neither a table nor a fit to one feature knows."""
    try:
        return block.run(model, inputs, run_layer)
    except ContractError as error:
        raise LayerError(
            "The temporal features of this model can be neither cached nor fitted apart",
            where="cache, temporal_rounding",
            why=f"{error}: it runs more than once there, on different inputs",
            fix="Write cache: null and temporal_rounding: null into a recipe, and choose it with "
            "--recipe",
        ) from error
