"""Learned equivalent scaling: one positive factor per input channel of a layer (DMQ, arXiv
2507.12933).

A layer's output is the same when its input is divided by ``tau`` and its weight's columns are
multiplied by it, ``Y = (X / tau)(tau W)``, but its quantised output is not. For sample i of step t

    L_i = || X_i W - Q(X_i / tau) Q(tau W) ||^2,     tau = argmin  mean_i lambda_t L_i

Layers of one module that read the same tensor share their factors: one fit for the outliers that
they have in common. The division stays the contract's input factor; it is not folded into the
normalisation before them. Levels of weights are fitted a few times on the way, and in between their
scale moves with the range of ``tau W``, as that of the activations does with the range of
``X / tau``: through these tau has a gradient beside that of the roundings. While it learns
activations are not clipped, as published: the errors of what is clipped are rare and large, and
drown the rest. What is compared in the end are the quantisers that are deployed, clipped ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.activation_quantizer import channel_energy, table_fit, table_ranges, whole_range
from ..core.bit_allocation import Allocation
from ..core.equalization import smoothing_factors
from ..core.integer_reference import ConvGeometry
from ..core.straight_through import activation_integers, weight_integers
from ..core.table_steps import TableSteps
from ..core.weight_form import WeightForm
from ..core.weight_quantizer import quantize_weight
from ..training.calibration import InputStatistics
from ..training.step_weights import StepWeights
from .choices import ScalingChoices
from .patches import Patches


@dataclass(frozen=True)
class ScaledLayer:
    """One of the layers that share their factors.

    Attributes:
        weights: float32 ``[O, K]``.
        conv: geometry, of one group; None for a linear layer.
        seen: its inputs at calibration.
        bits, act_bits: N and a.
        form, allocation: of its planes.
        tables: which steps share an activation range.
    """

    weights: torch.Tensor
    conv: ConvGeometry | None
    seen: InputStatistics
    bits: int
    act_bits: int
    form: WeightForm
    allocation: Allocation
    tables: TableSteps


def learn_scaling(
    layers: Sequence[ScaledLayer],
    patches: Patches,
    choices: ScalingChoices,
    seed: int,
    on_update: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """``tau``, float32 ``[I]``, of geometric mean 1: of what was learned, what it began with, and 1
    everywhere, that with the least error. It begins with the better one of 1 and the factors of
    smoothing.

    Args:
        layers: that share it.
        patches: rows of their input.
        choices: of the recipe.
        seed: of the batches.
        on_update: called behind every update.
    """
    targets = [patches.rows @ layer.weights.T for layer in layers]
    places = torch.linspace(0, len(patches.rows) - 1, choices.rows_per_fit).long()
    some, largest = patches.rows[places], math.log(choices.largest_factor)

    def error(tau: torch.Tensor) -> float:
        fitted = [_fitted(layer, tau, some, clipped=True) for layer in layers]
        return _error(fitted, tau, patches, targets, choices.batch)

    start = min((torch.ones(layers[0].seen.low.shape[1]), _smoothing(layers)), key=error)
    log_tau = start.log().requires_grad_()
    optimizer = torch.optim.Adam([log_tau], choices.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, choices.iterations)
    steps = StepWeights(len(layers[0].seen.low), choices.step_power, choices.step_memory)
    generator = torch.Generator().manual_seed(seed)
    interval = -(-choices.iterations // choices.refits)
    quantizers: list[_Quantizer] = []
    for iteration in range(choices.iterations):
        if iteration % interval == 0:
            now = log_tau.detach().exp()
            quantizers = [_fitted(layer, now, some, clipped=False) for layer in layers]
        rows = torch.randint(0, len(patches.rows), (choices.batch,), generator=generator)
        losses = _losses(quantizers, log_tau.exp(), patches, targets, rows)
        weights = steps.update(losses, patches.entries[rows])
        optimizer.zero_grad()
        (weights * losses).mean().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            log_tau.clamp_(-largest, largest)
        on_update()
    tau = (log_tau - log_tau.mean()).detach().exp()
    return min((start, tau), key=error)


def scaled_weights(
    weights: torch.Tensor, tau: torch.Tensor, conv: ConvGeometry | None
) -> torch.Tensor:
    """``tau W``, float32 ``[O, K]``."""
    return weights * tau if conv is None else weights * tau.repeat(weights.shape[1] // len(tau))


@dataclass(frozen=True)
class _Quantizer:
    """A layer's quantisers, fitted at one tau: integers that stay, and scales with the ranges that
    they belong to. ``weight_scale``, ``weight_range`` ``[O]``, the activations' ``[T]``."""

    layer: ScaledLayer
    offset: torch.Tensor
    steps: torch.Tensor
    weight_scale: torch.Tensor
    weight_range: torch.Tensor
    act_scale: torch.Tensor
    act_zero_point: torch.Tensor
    act_range: torch.Tensor

    def output(self, x: torch.Tensor, entries: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """``Q(X / tau) Q(tau W)`` for rows ``[B, K]``, ``[B, O]``, with gradient to tau."""
        layer = self.layer
        weights = scaled_weights(layer.weights, tau, layer.conv)
        scale = self.weight_scale * _row_range(weights) / self.weight_range
        fixed = scale.detach()
        # So the gradient to the scale is that of ``S round(w / S)``.
        w_int = weight_integers(weights * (fixed / scale)[:, None], fixed, self.offset, self.steps)
        act_scale = self.act_scale * _step_range(layer, tau) / self.act_range
        step = act_scale[entries][:, None]
        scaled = scaled_weights(x, 1 / tau, layer.conv)
        x_int = activation_integers(
            scaled, step, self.act_zero_point[entries][:, None], layer.act_bits
        )
        return (x_int * step) @ (w_int * scale[:, None]).T


@torch.no_grad()
def _fitted(layer: ScaledLayer, tau: torch.Tensor, rows: torch.Tensor, clipped: bool) -> _Quantizer:
    """The quantisers of a layer at one tau, with some rows of its input; clipped ones are those of
    its deployment."""
    seen, weights = layer.seen, scaled_weights(layer.weights, tau, layer.conv)
    inputs = scaled_weights(rows, 1 / tau, layer.conv)
    matrix = quantize_weight(weights, layer.bits, layer.form, layer.allocation, inputs)
    low, high = (seen.low / tau).amin(dim=1), (seen.high / tau).amax(dim=1)
    if clipped:
        importance = channel_energy(weights, layer.conv)[seen.sample_channels]
        samples = seen.samples / tau[seen.sample_channels]
        table = table_fit(layer.tables)(samples, importance, low, high, layer.act_bits)
    else:
        table = whole_range(*table_ranges(low, high, layer.tables), layer.act_bits)
    return _Quantizer(
        layer,
        torch.from_numpy(matrix.offset.astype(np.float32)),
        torch.from_numpy(matrix.steps.astype(np.float32)),
        torch.from_numpy(matrix.scale),
        _row_range(weights),
        torch.from_numpy(table.scale),
        torch.from_numpy(table.zero_point.astype(np.float32)),
        _step_range(layer, tau),
    )


def _smoothing(layers: Sequence[ScaledLayer]) -> torch.Tensor:
    """Factors of smoothing for all weights that read the input, float32 ``[I]``."""
    by_channel = [
        layer.weights.unflatten(1, (-1, layer.seen.low.shape[1])).abs().amax(dim=1)
        for layer in layers
    ]
    return smoothing_factors(layers[0].seen.channel_range(), torch.cat(by_channel))


def _losses(
    quantizers: Sequence[_Quantizer],
    tau: torch.Tensor,
    patches: Patches,
    targets: Sequence[torch.Tensor],
    rows: torch.Tensor,
) -> torch.Tensor:
    """L of every row, of all layers together, float32 ``[B]``."""
    x, entries = patches.rows[rows], patches.entries[rows]
    parts = [
        (quantizer.output(x, entries, tau) - target[rows]).square().sum(dim=1)
        for quantizer, target in zip(quantizers, targets, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


@torch.no_grad()
def _error(
    quantizers: Sequence[_Quantizer],
    tau: torch.Tensor,
    patches: Patches,
    targets: Sequence[torch.Tensor],
    batch: int,
) -> float:
    """The sum of L over all rows."""
    return sum(
        float(_losses(quantizers, tau, patches, targets, rows).sum())
        for rows in torch.arange(len(patches.rows)).split(batch)
    )


def _row_range(weights: torch.Tensor) -> torch.Tensor:
    """Width of every row's values and 0, ``[O]``."""
    return _width(weights.amin(dim=1), weights.amax(dim=1))


def _step_range(layer: ScaledLayer, tau: torch.Tensor) -> torch.Tensor:
    """Width of what shares a range with every entry, scaled, and 0, ``[T]``."""
    low, high = (layer.seen.low / tau).amin(dim=1), (layer.seen.high / tau).amax(dim=1)
    return _width(*table_ranges(low, high, layer.tables))


def _width(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    width = high.clamp(min=0) - low.clamp(max=0)
    return width.clamp(min=torch.finfo(torch.float32).tiny)
