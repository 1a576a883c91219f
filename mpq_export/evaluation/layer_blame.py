"""Which layer's quantisation costs most: each is restored to full precision in turn.

A layer's own signal-to-noise ratio says how far its output is off, not what the model makes of it.
So it only chooses the candidates; each of them is then replaced by the original layer in the
integer reference, and what the prediction's error loses by that is the layer's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.channel_parts import module_of
from ..core.layers import replace_module
from ..progress import ProgressReporter
from ..runtimes.torch_denoiser import TorchDenoiser
from .layer_fidelity import NodeResult
from .whole_model import prediction_error

if TYPE_CHECKING:
    from torch import nn

    from ..bundle import Bundle

Predict = Callable[[Any], Sequence[np.ndarray]]


@dataclass(frozen=True)
class LayerCost:
    """What restoring one layer gains.

    Attributes:
        name: the layer's module name.
        output_snr_db: signal to quantisation noise of its own output, of its worst part where it is
            a sum of several.
        error: relative error of the model's predictions with this layer restored.
        gain: share of the squared error of predictions that goes with it; negative where the
            errors of layers cancel.
    """

    name: str
    output_snr_db: float
    error: float
    gain: float


@dataclass(frozen=True)
class Blame:
    """Layers by cost, the costliest first.

    Attributes:
        costs: of the restored layers.
        error: relative error of the predictions with every layer quantised.
        layers: quantised layers in all; those that are not among ``costs`` had a better ratio of
            their own and were not restored.
    """

    costs: tuple[LayerCost, ...]
    error: float
    layers: int


def blame_layers(
    bundle: Bundle,
    original: nn.Module,
    nodes: Sequence[NodeResult],
    count: int,
    predict: Predict,
    reference: Sequence[np.ndarray],
    progress: ProgressReporter,
) -> Blame:
    """Restore the layers with the lowest ratios of their own, one at a time.

    Args:
        bundle: the quantised model.
        original: the full-precision model.
        nodes: all layers, measured against their originals.
        count: how many are restored.
        predict: predictions of a denoiser, always for the same inputs.
        reference: those of the full-precision model.
        progress: told of every layer that was restored.
    """
    ratios = _ratios(bundle, nodes)
    chosen = sorted(ratios, key=ratios.__getitem__)[:count]
    denoiser = TorchDenoiser(bundle)
    error = prediction_error(predict(denoiser), reference).relative
    progress.start("restore", len(chosen))
    costs = []
    for name in chosen:
        quantised = denoiser.model.get_submodule(name)
        replace_module(denoiser.model, name, original.get_submodule(name))
        restored = prediction_error(predict(denoiser), reference).relative
        replace_module(denoiser.model, name, quantised)
        gain = 1 - (restored / max(error, 1e-300)) ** 2
        costs.append(LayerCost(name, ratios[name], restored, gain))
        progress.advance()
    return Blame(tuple(sorted(costs, key=lambda cost: cost.error)), error, len(ratios))


def _ratios(bundle: Bundle, nodes: Sequence[NodeResult]) -> dict[str, float]:
    """Signal to noise of every module; of one that is a sum of parts that of its worst part."""
    ratios: dict[str, float] = {}
    for node in nodes:
        if node.output_snr_db is not None:
            name = module_of(node.name) if node.name in bundle.channels else node.name
            ratios[name] = min(node.output_snr_db, ratios.get(name, np.inf))
    return ratios
