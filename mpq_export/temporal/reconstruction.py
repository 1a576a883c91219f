"""Learning the rounding of the temporal block by its features alone (TFMQ-DM, section 3.2).

    L = sum over i of || g_i(h(t)) - g^_i(h^(t)) ||^2

for all layers of the block together, before any other. Fitted with the rest of a residual block, as
BRECQ does, a layer of the block would answer for errors of images, of which it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from ..architectures import architecture_of
from ..core.integer_reference import PackedLayer
from ..core.layers import Quantizable
from ..core.learned_rounding import LearnedRounding, RoundedLayer
from ..core.planes import unpack
from ..core.temporal import TIMESTEP, TemporalBlock, find_temporal_block
from ..progress import ProgressReporter
from ..reconstruction.calls import BlockCalls
from ..reconstruction.choices import RoundingChoices
from ..reconstruction.finished import FinishedParts
from ..reconstruction.rounding import codes_layout, fit_rounding, rounded_layer, with_codes
from ..reconstruction.walk import CalibrationWalk
from ..training.interruption import leave_if, stop_wish
from ..training.seeds import derived_seed
from .features import run_block
from .recorded import record_model

_PART = "temporal rounding"


class _Features(nn.Module):
    """A temporal block as a module of its inputs, in the order of their names."""

    def __init__(
        self, block: TemporalBlock, model: nn.Module, layers: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self._block, self._model, self._layers = block, [model], dict(layers)
        self._names = sorted(block.inputs)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """All features side by side, ``[B, C]``."""
        given = dict(zip(self._names, inputs, strict=True))
        features = run_block(self._block, self._model[0], given, self._run_layer)
        return torch.cat(list(features.values()), dim=1)

    def _run_layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layer = self._layers.get(name) or self._model[0].get_submodule(name)
        output: torch.Tensor = layer(x)
        return output


def whole_block(model: nn.Module, model_config: Mapping[str, Any], batch: int) -> TemporalBlock:
    """The block of all that the timestep decides before the sample comes in, conditions or not."""
    specs = architecture_of(model_config).conditions(model_config)
    tape = record_model(model, model_config, batch)
    return find_temporal_block(tape, [spec.name for spec in specs])


def learn_temporal_rounding(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    layers: Mapping[str, PackedLayer],
    learning: Collection[str],
    choices: RoundingChoices,
    seed: int,
    finished: FinishedParts,
    progress: ProgressReporter,
) -> dict[str, PackedLayer]:
    """The layers, those of the temporal block with other codes, the levels the same.

    Args:
        model: of full precision; it is not changed.
        model_config: its config.
        walk: trajectories, whose steps and conditions are the inputs.
        layers: as first quantised, by module name.
        learning: those whose rounding may be learned; others of the block stay as they are.
        choices: of the recipe.
        seed: of samples and batches.
        finished: what an earlier run has finished is taken from there, else kept there.
        progress: told of every update.

    Where the features would be farther from full precision than with nearest rounding, that stays.
    Raises Interrupted on Ctrl-C or SIGTERM, and LayerError where a layer gives several features in
    one step.
    """
    block = whole_block(model, model_config, choices.batch)
    own = [name for name in block.layers if name in learning]
    progress.start("learn temporal rounding", choices.iterations)
    codes = finished.load(_PART, codes_layout(own, layers))
    if codes is None and own:
        with stop_wish() as wished:
            codes = _learn(
                model, model_config, walk, layers, block, own, choices, seed, progress, wished
            )
            finished.save(_PART, codes)
            leave_if(wished, "the temporal block's rounding was learned")
    else:
        progress.advance(choices.iterations)
    return {
        name: with_codes(layer, codes[name]) if codes and name in codes else layer
        for name, layer in layers.items()
    }


def _learn(
    model: nn.Module,
    model_config: Mapping[str, Any],
    walk: CalibrationWalk,
    layers: Mapping[str, PackedLayer],
    block: TemporalBlock,
    own: Collection[str],
    choices: RoundingChoices,
    seed: int,
    progress: ProgressReporter,
    wished: Callable[[], bool],
) -> dict[str, torch.Tensor]:
    """The codes of the layers ``own``, uint8 ``[O, K]``."""
    rounded = {
        name: rounded_layer(layers[name], cast(Quantizable, model.get_submodule(name)))
        for name in block.layers
        if name in layers
    }
    for name, layer in rounded.items():
        if name not in own:
            layer.settle(torch.from_numpy(unpack(layers[name].weight).weights()))
    parts = {name: cast(LearnedRounding, rounded[name].rounding) for name in own}
    inputs = _inputs(walk, block, choices, seed)
    every = whole_block(model, model_config, len(inputs[TIMESTEP]))
    places = [inputs[name] for name in sorted(block.inputs)]
    with torch.no_grad():
        targets = _Features(every, model, {})(*places)
    _, structure = tree_flatten((tuple(places), {}))
    calls = BlockCalls(dict(enumerate(places)), {}, structure, targets, torch.arange(len(targets)))
    batches = torch.Generator().manual_seed(derived_seed("batches of the temporal block", seed))
    fit_rounding(
        _Features(block, model, rounded),
        parts.values(), calls, targets, choices, batches, progress, wished,
    )  # fmt: skip
    module = _Features(every, model, rounded)
    nearest = {name: torch.from_numpy(part.start.weights()) for name, part in parts.items()}
    learned = {name: part.hard() for name, part in parts.items()}
    errors = [_error(module, rounded, weights, places, targets) for weights in (nearest, learned)]
    progress.note("temporal features: {:.4f} to {:.4f}".format(*errors))
    return {
        name: torch.from_numpy((part.matrix() if errors[1] < errors[0] else part.start).codes)
        for name, part in parts.items()
    }


def _inputs(
    walk: CalibrationWalk, block: TemporalBlock, choices: RoundingChoices, seed: int
) -> dict[str, torch.Tensor]:
    """What the block meets: every step, with as many images' conditions as there are samples; one
    where the timestep alone decides."""
    per_step = max(1, choices.samples // len(walk.steps)) if len(block.inputs) > 1 else 1
    own_seed = derived_seed("samples of the temporal block", seed)
    chosen = walk.chosen(walk.of_every_step(per_step), own_seed)
    inputs = {
        TIMESTEP: torch.cat(
            [part.step.timestep.float().reshape(1).expand(len(part.images)) for part in chosen]
        )
    }
    for name in block.inputs - {TIMESTEP}:
        inputs[name] = torch.cat([part.step.conditions[name][part.images] for part in chosen])
    return inputs


@torch.no_grad()
def _error(
    module: _Features,
    rounded: Mapping[str, RoundedLayer],
    weights: Mapping[str, torch.Tensor],
    inputs: list[torch.Tensor],
    targets: torch.Tensor,
) -> float:
    """Relative error of all features, with these weights."""
    for name, weight in weights.items():
        rounded[name].fix(weight)
    signal = targets.norm()
    return float((module(*inputs) - targets).norm() / signal) if signal > 0 else 0.0
