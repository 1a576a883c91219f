"""Applying a recipe: a full-precision model becomes packed layers and activation tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..architectures import architecture_of
from ..cached_features import CachedFeatures
from ..core.channel_parts import part_name, parts_by_module
from ..core.integer_reference import PackedLayer
from ..core.layers import (
    FrozenLayer,
    Quantizable,
    StepIndex,
    install_layers,
    replace_module,
)
from ..core.temporal import unread_layers
from ..precision import BitSpec
from ..progress import ProgressReporter
from ..reconstruction.bias_correction import prediction_bias
from ..reconstruction.blocks import blocks_of
from ..reconstruction.finished import NOTHING_KEPT, FinishedParts
from ..reconstruction.rounding import learn_rounding
from ..reconstruction.walk import CalibrationWalk, ChosenImages
from ..schedulers import SamplingSchedule, sampling_schedule
from ..temporal.cache import CachedBlock, ExactFeatures, cached_block, exact_features
from ..temporal.cache_plan import plan_cache
from ..temporal.reconstruction import learn_temporal_rounding, whole_block
from ..training.calibration import InputStatistics, record_inputs
from ..training.trajectories import TrajectoryStep, calls_per_step, full_precision_trajectory
from .equivalent_scales import learned_scales
from .layer_jobs import LayerJob, quantized_in_order, split_job
from .layer_parts import Part
from .plan import LayerPlan, plan_layers
from .recipe import Recipe
from .splitting import split_layers

_NOT_RUN = "it does not run in every denoising step: unused, or its weights are read without a call"


@dataclass(frozen=True)
class QuantizedModel:
    """Everything a bundle holds of a model.

    Attributes:
        plan: bits and exceptions.
        layers: packed layers by module name, in the model's order.
        parameters: float32 parameters and buffers of all that stays in floating point.
        timesteps: int32 ``[T]`` of the activation tables.
        output_bias: float32 ``[T]`` or ``[T, C]``, added to the prediction.
        cached: temporal features in a table; their layers are in neither plan nor layers.
        channels: int32 ``[I]`` of the layers that are parts of a module, by name.
    """

    plan: LayerPlan
    layers: dict[str, PackedLayer]
    parameters: dict[str, np.ndarray]
    timesteps: np.ndarray
    output_bias: np.ndarray
    cached: CachedBlock | None = None
    channels: Mapping[str, np.ndarray] = field(default_factory=dict)


def quantize_model(
    model: nn.Module,
    model_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    bits: BitSpec,
    recipe: Recipe,
    num_steps: int,
    seed: int,
    progress: ProgressReporter,
    conditions: Mapping[str, torch.Tensor] | None = None,
    finished: FinishedParts = NOTHING_KEPT,
) -> QuantizedModel:
    """Calibrate on the model's own trajectories and quantise every planned layer; no training.

    The model is consumed: a layer's full-precision weight is let go as soon as it is packed, and
    nothing of it is left at the end, so that memory stays near the model's own; where a recipe
    learns the rounding, all of it stays until then. ``conditions`` are drawn at random where none
    are given. What is learned goes on behind what is in ``finished``.
    """
    run = _Run(
        model, model_config, recipe, seed, finished, progress,
        sampling_schedule(scheduler_config, num_steps), CalibrationWalk(),
    )  # fmt: skip
    plan = plan_layers(model, architecture_of(model_config), bits, recipe)
    exact = run.exact_features()
    images = recipe.calibration_images if conditions is None else _rows(conditions)
    trajectory = full_precision_trajectory(
        model, model_config, scheduler_config, num_steps, images, seed, conditions
    )
    plan, statistics = run.calibrated(plan, trajectory, images, exact)
    scales = run.scales(plan, statistics, exact)
    parts = run.parts(plan, statistics, scales)
    channels = {
        part_name(name, place): part.channels
        for name, own in parts.items()
        if len(own) > 1
        for place, part in enumerate(own)
    }
    first = run.first_layers(plan, statistics, scales, parts)
    layers = run.rounded(plan, first, channels, exact)
    plan = plan.splitting(parts_by_module(channels))
    cached = None if exact is None else cached_block(model, exact, layers)
    if cached is not None:
        removed = cached.config.removed
        plan = plan.without(removed)
        layers = {name: layer for name, layer in layers.items() if name not in removed}
        for name in removed:
            replace_module(model, name, nn.Identity())
    # Copies: a view would keep the whole checkpoint mapped.
    parameters = {key: value.float().numpy().copy() for key, value in model.state_dict().items()}
    bias = run.output_bias(layers, channels, cached)
    model.to("meta")
    return QuantizedModel(plan, layers, parameters, run.schedule.timesteps, bias, cached, channels)


@dataclass(frozen=True)
class _Run:
    """A model on its way; the stages are called in the order in which they stand here."""

    model: nn.Module
    model_config: Mapping[str, Any]
    recipe: Recipe
    seed: int
    finished: FinishedParts
    progress: ProgressReporter
    schedule: SamplingSchedule
    walk: CalibrationWalk

    def exact_features(self) -> ExactFeatures | None:
        """Temporal features in full precision, where the recipe caches them."""
        if self.recipe.cache is None:
            return None
        rows = len(self.schedule.timesteps)
        plan = plan_cache(self.model, self.model_config, rows, self.recipe.cache)
        return exact_features(self.model, plan, self.schedule.exact)

    def calibrated(
        self,
        plan: LayerPlan,
        trajectory: Iterable[TrajectoryStep],
        images: int,
        exact: ExactFeatures | None,
    ) -> tuple[LayerPlan, dict[str, InputStatistics]]:
        """The plan of the layers that run, and what their inputs are."""
        self.progress.start("calibrate", len(self.schedule.entries))
        if exact is not None:
            for reason, count in Counter(exact.plan.computed.values()).items():
                self.progress.note(f"{count} temporal features are not cached: {reason}")
        unguided = self.recipe.guidance == 1 and self.recipe.eta is None
        if not unguided and not self.recipe.training.updates:
            self.progress.note("guidance and eta are of training, and nothing is trained")
        if self.recipe.walks_again:
            trajectory = self.walk.keeping(trajectory)
        statistics = record_inputs(
            {name: self._layer(name) for name in plan.layers},
            trajectory,
            self.schedule.entries.tolist(),
            calls_per_step(self.model_config, images),
            self.seed,
            self.progress.advance,
        )
        plan = plan.keeping({name: _NOT_RUN for name, seen in statistics.items() if seen is None})
        return plan, {name: seen for name, seen in statistics.items() if seen is not None}

    def scales(
        self,
        plan: LayerPlan,
        statistics: Mapping[str, InputStatistics],
        exact: ExactFeatures | None,
    ) -> Mapping[str, torch.Tensor]:
        """``tau`` of the layers that learn it. Those that a table is to stand for do not: what they
        learned would be dropped with them."""
        if self.recipe.scaling is None:
            return {}
        if exact is not None:
            plan = plan.unscaled(_replaced(exact))
        return learned_scales(
            self.model,
            self.model_config,
            self.walk,
            plan,
            statistics,
            self.recipe.scaling,
            self.seed,
            self.finished,
            self.progress,
        )

    def parts(
        self,
        plan: LayerPlan,
        statistics: Mapping[str, InputStatistics],
        scales: Mapping[str, torch.Tensor],
    ) -> Mapping[str, list[Part]]:
        """Of the layers that have several, or shifts."""
        if not self.recipe.splits_layers:
            return {}
        return split_layers(
            self.model,
            self.model_config,
            self.walk,
            plan,
            statistics,
            scales,
            self.recipe,
            self.seed,
            self.finished,
            self.progress,
        )

    def first_layers(
        self,
        plan: LayerPlan,
        statistics: dict[str, InputStatistics],
        scales: Mapping[str, torch.Tensor],
        parts: Mapping[str, list[Part]],
    ) -> dict[str, PackedLayer]:
        """Every layer, rounded to nearest; ``statistics`` are consumed, and so is the model where
        no rounding is learned."""
        weights = sum(self._layer(name).weight.numel() for name in plan.layers)
        self.progress.start("quantize", weights)
        jobs = [
            job
            for name, choices in plan.layers.items()
            for job in split_job(
                LayerJob(name, self._layer(name), choices, statistics.pop(name), scales.get(name)),
                parts.get(name, []),
            )
        ]
        names = [job.name for job in jobs]
        modules = [job.owner for job in jobs]
        layers = {}
        for name, module, layer in zip(names, modules, quantized_in_order(jobs), strict=True):
            layers[name] = layer
            if not self.recipe.learns_rounding:
                replace_module(self.model, module, nn.Identity())
            self.progress.advance(layer.weight.rows * layer.weight.columns)
        return layers

    def rounded(
        self,
        plan: LayerPlan,
        layers: dict[str, PackedLayer],
        channels: Mapping[str, NDArray[np.int32]],
        exact: ExactFeatures | None,
    ) -> dict[str, PackedLayer]:
        """The layers with codes that were learned; the model is consumed. Those that a table is to
        stand for learn none with others, which would then make up for errors that are not there."""
        recipe, learning = self.recipe, [n for n, bits in plan.bits.items() if bits.weight < 8]
        if not recipe.learns_rounding:
            return layers
        if recipe.temporal_rounding is not None:
            layers = learn_temporal_rounding(
                self.model,
                self.model_config,
                self.walk,
                layers,
                learning,
                recipe.temporal_rounding,
                self.seed,
                self.finished,
                self.progress,
            )
            temporal = whole_block(self.model, self.model_config, 1).layers
            learning = [name for name in learning if name not in temporal]
        if exact is not None:
            replaced = _replaced(exact)
            learning = [name for name in learning if name not in replaced]
        if recipe.rounding is not None:
            layers = learn_rounding(
                self.model,
                self.model_config,
                self.walk,
                layers,
                channels,
                blocks_of(self.model, learning),
                recipe.rounding,
                self.seed,
                self.finished,
                self.progress,
            )
        for name in plan.layers:
            replace_module(self.model, name, nn.Identity())
        return layers

    def output_bias(
        self,
        layers: Mapping[str, PackedLayer],
        channels: Mapping[str, NDArray[np.int32]],
        cached: CachedBlock | None,
    ) -> NDArray[np.float32]:
        """Zeros where the recipe corrects nothing, or only when it has trained; the model, of which
        what is in floating point is left, becomes the quantised one."""
        rows = len(self.schedule.timesteps)
        if not self.recipe.bias_correction or self.recipe.training.updates:
            return np.zeros(rows, np.float32)
        step, features = StepIndex(), CachedFeatures(None, {}, None)
        install_layers(self.model, layers, channels, lambda _, layer: FrozenLayer(layer, step))
        if cached is not None:
            config = cached.config
            features = CachedFeatures(cached.table, config.widths(), config.labels)
            for name, (width, _) in config.removed.items():
                removed = self.model.get_submodule(name)
                replace_module(self.model, name, features.stand_in(name, width, removed))

        def prepare(images: ChosenImages) -> None:
            step.value = images.step.entry
            features.select(torch.tensor([step.value]), images.sample, images.conditions)

        self.progress.start("correct bias", len(self.walk.steps))
        return prediction_bias(
            self.model, self.model_config, self.walk, rows, prepare, self.progress.advance
        )

    def _layer(self, name: str) -> Quantizable:
        return cast(Quantizable, self.model.get_submodule(name))


def _replaced(exact: ExactFeatures) -> frozenset[str]:
    """The layers that a table would stand for if all features were in it."""
    return frozenset(unread_layers(exact.plan.block.tape, list(exact.plan.widths)))


def _rows(conditions: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(conditions.values())))
