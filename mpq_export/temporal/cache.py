"""Caching temporal features: exact ones of a model, and a table of the better ones.

"Temporal Feature Matters" (arXiv 2407.19547), the extension of TFMQ-DM, keeps a feature in a table
where that is nearer to full precision than the quantised layers are. Its text leaves open how near
is measured; here by the relative error of a feature over all steps and labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..bundle_features import TemporalConfig
from ..core.feature_table import FeatureTable, fit_feature_table
from ..core.integer_reference import PackedLayer
from ..core.layers import FrozenLayer, StepIndex
from ..core.temporal import TIMESTEP, RunLayer, unread_layers
from .cache_plan import CachePlan
from .features import run_block


@dataclass(frozen=True)
class ExactFeatures:
    """A model's temporal features in full precision.

    Attributes:
        plan: of the cache.
        timesteps: float64 ``[T]``, those of the features.
        values: float32 ``[T, L, C]``, channels in the plan's order.
    """

    plan: CachePlan
    timesteps: NDArray[np.float64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class CachedBlock:
    """Features in a table, and the layers that a model with it does not need.

    Attributes:
        config, table: as a bundle has them.
    """

    config: TemporalConfig
    table: FeatureTable


def exact_features(
    model: nn.Module, plan: CachePlan, timesteps: NDArray[np.float64]
) -> ExactFeatures:
    """The features of a full-precision model at every step, if there are any to cache. Raises
    LayerError where a layer gives several in one."""
    if not plan.widths:
        return ExactFeatures(plan, timesteps, np.zeros((len(timesteps), 1, 0), np.float32))

    def run_layer(name: str, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model.get_submodule(name)(x)
        return output

    steps = [_features(model, plan, timestep, run_layer) for timestep in timesteps]
    return ExactFeatures(plan, timesteps, np.stack(steps))


def cached_block(
    model: nn.Module, exact: ExactFeatures, layers: Mapping[str, PackedLayer]
) -> CachedBlock | None:
    """The features that a table holds better than ``layers`` make them; None if none is.

    ``model`` needs to hold what is not quantised alone.
    """
    plan, step = exact.plan, StepIndex()
    if not plan.widths:
        return None
    frozen = {name: FrozenLayer(layers[name], step) for name in plan.block.layers if name in layers}

    def run_layer(name: str, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = (frozen.get(name) or model.get_submodule(name))(x)
        return output

    computed = np.empty_like(exact.values)
    for step.value, timestep in enumerate(exact.timesteps):
        computed[step.value] = _features(model, plan, timestep, run_layer)
    table = fit_feature_table(exact.values)
    tabled = np.stack([table.values(index) for index in range(len(exact.timesteps))])
    of_table, of_layers = (
        _errors(plan.widths, exact.values, values) for values in (tabled, computed)
    )
    better = [name for name in plan.widths if of_table[name] <= of_layers[name]]
    if not better:
        return None
    reasons = dict(plan.computed) | {
        name: f"its layers are nearer: {of_layers[name]:.2g} of it, the table {of_table[name]:.2g}"
        for name in plan.widths
        if name not in better
    }
    unread = unread_layers(plan.block.tape, better)
    removed = {name: _weight_shape(model, name, layers) for name in unread}
    config = TemporalConfig(
        features=better,
        labels=None if plan.labels is None else plan.labels.name,
        removed=removed,
        computed=reasons,
        errors={name: [of_table[name], of_layers[name]] for name in plan.widths},
    )
    columns = np.concatenate([_columns(plan.widths)[name] for name in better])
    own = FeatureTable(table.codes[:, :, columns], table.scale[columns], table.offset[columns])
    return CachedBlock(config, own)


@torch.no_grad()
def _features(
    model: nn.Module, plan: CachePlan, timestep: float, run_layer: RunLayer
) -> NDArray[np.float32]:
    """Float32 ``[L, C]``."""
    inputs = {TIMESTEP: torch.full((plan.rows,), timestep, dtype=torch.float32)}
    if plan.labels is not None:
        inputs[plan.labels.name] = torch.arange(plan.labels.count)
    features = run_block(plan.block, model, inputs, run_layer)
    values: NDArray[np.float32] = (
        torch.cat([features[name] for name in plan.widths], dim=1).float().numpy()
    )
    return values


def _columns(widths: Mapping[str, int]) -> dict[str, NDArray[np.intp]]:
    """The places of every feature's channels in the table."""
    ends = np.cumsum(list(widths.values()))
    return {
        name: np.arange(end - width, end)
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }


def _errors(
    widths: Mapping[str, int], exact: NDArray[np.float32], found: NDArray[np.float32]
) -> dict[str, float]:
    """Root of the squared error of every feature by its squares, over all steps and labels."""
    result = {}
    for name, columns in _columns(widths).items():
        wide = exact[..., columns].astype(np.float64)
        noise, signal = np.square(found[..., columns] - wide).sum(), np.square(wide).sum()
        result[name] = float(np.sqrt(noise / signal)) if signal > 0 else float(noise > 0)
    return result


def _weight_shape(model: nn.Module, name: str, layers: Mapping[str, PackedLayer]) -> list[int]:
    """``[O, K]``; an embedding of K numbers gives O features."""
    if name in layers:
        return [layers[name].weight.rows, layers[name].weight.columns]
    module = model.get_submodule(name)
    rows, columns = (int(length) for length in module.weight.shape)  # type: ignore[union-attr]
    return [columns, rows] if isinstance(module, nn.Embedding) else [rows, columns]
