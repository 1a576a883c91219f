"""Applying a recipe: a full-precision model becomes packed layers and activation tables."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..architectures import architecture_of
from ..core.activation_quantizer import channel_energy, table_fit
from ..core.bit_allocation import Allocation
from ..core.channel_parts import module_of, part_name, parts_by_module
from ..core.equalization import smoothing_factors
from ..core.integer_reference import PackedLayer, check_layer, column_factors
from ..core.layers import Quantizable, geometry_of, part_weights, replace_module, weight_matrix
from ..core.planes import ContractError, pack
from ..core.weight_quantizer import quantize_weight
from ..errors import LayerError
from ..precision import BitSpec
from ..progress import ProgressReporter
from ..reconstruction.blocks import blocks_of
from ..reconstruction.finished import NOTHING_KEPT, FinishedParts
from ..reconstruction.rounding import learn_rounding
from ..reconstruction.walk import CalibrationWalk
from ..schedulers import sampling_schedule
from ..temporal.cache import CachedBlock, cached_block, exact_features
from ..temporal.cache_plan import plan_cache
from ..temporal.reconstruction import learn_temporal_rounding, whole_block
from ..training.calibration import InputStatistics, record_inputs
from ..training.trajectories import calls_per_step, full_precision_trajectory
from .equivalent_scales import learned_scales
from .plan import LayerChoices, LayerPlan, plan_layers
from .recipe import Recipe
from .splitting import Part, part_statistics, split_layers

_NOT_RUN = "it does not run in every denoising step: unused, or its weights are read without a call"


@dataclass(frozen=True)
class QuantizedModel:
    """Everything a bundle holds of a model.

    Attributes:
        plan: bits and exceptions.
        layers: packed layers by module name, in the model's order.
        parameters: float32 parameters and buffers of all that stays in floating point.
        timesteps: int32 ``[T]`` of the activation tables.
        output_bias: float32 ``[T]``, added to the prediction.
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


@dataclass(frozen=True)
class _Job:
    """A layer to be quantised, or a part of one, for what inputs. These are divided by ``gain``
    float32 ``[I]``, by smoothing's factors or by nothing where it is None. Only the first part has
    the bias."""

    name: str
    module: Quantizable
    choices: LayerChoices
    seen: InputStatistics
    gain: torch.Tensor | None
    part: Part | None = None
    has_bias: bool = True


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
    plan = plan_layers(model, architecture_of(model_config), bits, recipe)
    schedule = sampling_schedule(scheduler_config, num_steps)
    images = recipe.calibration_images if conditions is None else _rows(conditions)
    exact = None
    if recipe.cache is not None:
        cache_plan = plan_cache(model, model_config, len(schedule.timesteps), recipe.cache)
        exact = exact_features(model, cache_plan, schedule.exact)
    progress.start("calibrate", len(schedule.entries))
    if exact is not None:
        for reason, count in Counter(exact.plan.computed.values()).items():
            progress.note(f"{count} temporal features are not cached: {reason}")
    trajectory = full_precision_trajectory(
        model, model_config, scheduler_config, num_steps, images, seed, conditions
    )
    walk = CalibrationWalk()
    if recipe.is_reconstructed or recipe.splits_layers:
        trajectory = walk.keeping(trajectory)
    statistics = record_inputs(
        {name: _layer(model, name) for name in plan.layers},
        trajectory,
        schedule.entries.tolist(),
        calls_per_step(model_config, images),
        seed,
        progress.advance,
    )
    plan = plan.keeping({name: _NOT_RUN for name, seen in statistics.items() if seen is None})
    scales: Mapping[str, torch.Tensor] = {}
    if recipe.scaling is not None:
        scales = learned_scales(
            model,
            model_config,
            walk,
            plan,
            statistics,
            recipe.scaling,
            seed,
            finished,
            progress,
        )
    parts: Mapping[str, list[Part]] = {}
    if recipe.splits_layers:
        # The temporal block is run layer by layer: there one of several parts has no place.
        timed = recipe.cache is not None or recipe.temporal_rounding is not None
        whole = whole_block(model, model_config, 1).read_layers if timed else frozenset[str]()
        parts = split_layers(
            model, model_config, walk, plan, statistics, scales, recipe, whole, seed, progress
        )
    progress.start("quantize", sum(_layer(model, name).weight.numel() for name in plan.layers))
    layers, rounds = {}, recipe.rounding is not None or recipe.temporal_rounding is not None
    jobs = [
        job
        for name, choices in plan.layers.items()
        for job in _jobs(
            _Job(
                name,
                _layer(model, name),
                choices,
                _run_in_every_entry(statistics.pop(name)),
                scales.get(name),
            ),
            parts.get(name, []),
        )
    ]
    names = [job.name for job in jobs]
    channels = {
        part_name(name, place): part.channels
        for name, own in parts.items()
        if len(own) > 1
        for place, part in enumerate(own)
    }
    modules = [module_of(name) if name in channels else name for name in names]
    for name, module, layer in zip(names, modules, _quantized_in_order(jobs), strict=True):
        layers[name] = layer
        if not rounds:
            replace_module(model, module, nn.Identity())
        progress.advance(layer.weight.rows * layer.weight.columns)
    learning = [name for name, bits in plan.bits.items() if bits.weight < 8]
    if recipe.temporal_rounding is not None:
        layers = learn_temporal_rounding(
            model,
            model_config,
            walk,
            layers,
            learning,
            recipe.temporal_rounding,
            seed,
            finished,
            progress,
        )
        temporal = whole_block(model, model_config, 1).layers
        learning = [name for name in learning if name not in temporal]
    if recipe.rounding is not None:
        layers = learn_rounding(
            model,
            model_config,
            walk,
            layers,
            channels,
            blocks_of(model, learning),
            recipe.rounding,
            seed,
            finished,
            progress,
        )
    if rounds:
        for name in modules:
            replace_module(model, name, nn.Identity())
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
    model.to("meta")
    bias = np.zeros(len(schedule.timesteps), np.float32)
    return QuantizedModel(plan, layers, parameters, schedule.timesteps, bias, cached, channels)


def _layer(model: nn.Module, name: str) -> Quantizable:
    return cast(Quantizable, model.get_submodule(name))


def _rows(conditions: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(conditions.values())))


def _run_in_every_entry(seen: InputStatistics | None) -> InputStatistics:
    assert seen is not None, "layers that do not run have left the plan"
    return seen


def _quantized_in_order(jobs: list[_Job]) -> Iterator[PackedLayer]:
    """The packed layers of all jobs, several at work at a time, each in one thread.

    A fit is many small operations, which gain little from more threads of their own. Jobs are let
    go one by one, with the weights and inputs they hold.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[PackedLayer]] = deque()
    jobs.reverse()
    try:
        while jobs or waiting:
            while jobs and len(waiting) <= threads:
                waiting.append(pool.submit(_quantize_layer, jobs.pop()))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(whole: _Job, parts: list[Part]) -> list[_Job]:
    """A layer, or its parts."""
    if not parts:
        return [whole]
    if len(parts) == 1:
        return [replace(whole, part=parts[0])]
    return [
        replace(whole, name=part_name(whole.name, place), part=part, has_bias=place == 0)
        for place, part in enumerate(parts)
    ]


def _quantize_layer(job: _Job) -> PackedLayer:
    module, choices, seen, gain = job.module, job.choices, job.seen, job.gain
    conv, weights = geometry_of(module), weight_matrix(module)
    rows, channels = len(weights), seen.low.shape[1]
    if gain is None and choices.smoothing:
        gain = smoothing_factors(
            seen.channel_range(), module.weight.detach(), conv.group if conv else 1
        )
    gain = torch.ones(channels) if gain is None else gain
    shift = np.zeros(channels, np.int8)
    if job.part is not None:
        own = job.part.channels
        weights = part_weights(weights, weights.shape[1] // channels, own)
        seen, gain, shift = part_statistics(seen, own), gain[own.astype(np.int64)], job.part.shift
    factor = torch.exp2(-torch.from_numpy(shift).float()) / gain
    weights = weights * torch.from_numpy(column_factors(gain.numpy(), conv, rows))
    inputs = seen.patches
    if inputs is not None:
        inputs = inputs * torch.from_numpy(column_factors((1 / gain).numpy(), conv, rows))
    allocation = choices.allocation if conv is None or conv.group == 1 else Allocation.EQUAL
    if rows < 2:
        allocation = Allocation.EQUAL
    energy = channel_energy(weights, conv) * torch.exp2(2 * torch.from_numpy(shift).float())
    table = table_fit(choices.tables)(
        seen.samples * factor[seen.sample_channels],
        energy[seen.sample_channels],
        (seen.low * factor).amin(dim=1),
        (seen.high * factor).amax(dim=1),
        choices.bits.activation,
    )
    # A copy, like the parameters that stay: a view would keep the whole checkpoint mapped.
    bias = torch.zeros(rows)
    if module.bias is not None and job.has_bias:
        bias = module.bias.detach().float().clone()
    try:
        matrix = quantize_weight(
            weights, choices.bits.weight, choices.weight_form, allocation, inputs
        )
        layer = PackedLayer(
            weight=pack(matrix),
            bias=bias.numpy(),
            act_scale=table.scale,
            act_zero_point=table.zero_point,
            act_bits=choices.bits.activation,
            input_factor=factor.numpy(),
            input_shift=shift,
            conv=conv,
        )
        check_layer(layer)
    except ContractError as error:
        raise LayerError("The layer cannot be packed", where=job.name, why=str(error)) from error
    return layer
