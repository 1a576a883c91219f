"""The stage of a recipe that learns equivalent scales of all its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from ..core.bit_allocation import Allocation
from ..core.layers import Quantizable, geometry_of, weight_matrix
from ..progress import ProgressReporter
from ..reconstruction.choices import ScalingChoices
from ..reconstruction.finished import FinishedParts, TensorLayout
from ..reconstruction.patches import record_patches, shared_inputs
from ..reconstruction.scaling import ScaledLayer, learn_scaling
from ..reconstruction.walk import CalibrationWalk
from ..training.calibration import InputStatistics
from ..training.interruption import leave_if, stop_wish
from ..training.seeds import derived_seed
from .plan import LayerPlan

_FACTORS = "factors"
_DOING = "scales were learned"
_LARGEST = 2.0**100
"""Beyond it, or below its inverse, no factor can be meant: those of smoothing span the square root
of float32's numbers."""


def learned_scales(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    plan: LayerPlan,
    statistics: Mapping[str, InputStatistics | None],
    choices: ScalingChoices,
    seed: int,
    finished: FinishedParts,
    progress: ProgressReporter,
) -> dict[str, torch.Tensor]:
    """``tau``, float32 ``[I]``, of every layer that has one, by name.

    Layers at 8 bits and grouped convolutions have none. Groups of layers that an earlier run has
    finished are taken from ``finished``, others kept there. Raises Interrupted on Ctrl-C or
    SIGTERM.
    """
    names = [name for name, own in plan.layers.items() if own.scaling]
    groups = shared_inputs(model, model_config, walk, names)
    progress.start("learn scales", len(groups) * choices.iterations)
    result: dict[str, torch.Tensor] = {}
    missing: list[Sequence[str]] = []
    for members in groups:
        seen = statistics[members[0]]
        assert seen is not None, "layers that do not run have left the plan"
        channels = seen.low.shape[1]
        layout = {_FACTORS: TensorLayout(torch.float32, (channels,), 1 / _LARGEST, _LARGEST)}
        known = finished.load(_part(members), layout)
        if known is None:
            missing.append(members)
        else:
            result |= dict.fromkeys(members, known[_FACTORS])
            progress.advance(choices.iterations)
    with stop_wish() as wished:

        def on_update() -> None:
            leave_if(wished, _DOING)
            progress.advance()

        recorded = record_patches(
            model, model_config, walk, missing, choices.samples, choices.images_per_step, seed
        )
        for group, patches in recorded:
            layers = [_scaled(model, name, plan, statistics) for name in group]
            own_seed = derived_seed(f"scaling {group[0]}", seed)
            tau = learn_scaling(layers, patches, choices, own_seed, on_update)
            finished.save(_part(group), {_FACTORS: tau})
            result |= dict.fromkeys(group, tau)
        leave_if(wished, _DOING)
    return result


def _scaled(
    model: nn.Module,
    name: str,
    plan: LayerPlan,
    statistics: Mapping[str, InputStatistics | None],
) -> ScaledLayer:
    module, choices, seen = _layer(model, name), plan.layers[name], statistics[name]
    assert seen is not None, "layers that do not run have left the plan"
    weights = weight_matrix(module)
    allocation = choices.allocation if len(weights) > 1 else Allocation.EQUAL
    return ScaledLayer(
        weights,
        geometry_of(module),
        seen,
        choices.bits.weight,
        choices.bits.activation,
        choices.weight_form,
        allocation,
        choices.tables,
    )


def _layer(model: nn.Module, name: str) -> Quantizable:
    return cast(Quantizable, model.get_submodule(name))


def _part(group: Sequence[str]) -> str:
    return f"scaling {group[0]}"
