"""Training a quantised model: from the layers as first quantised to those that are deployed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from ..architectures import architecture_of
from ..core.low_rank_form import LowRankStart
from ..progress import ProgressReporter
from ..schedulers import SamplingSchedule, sampling_schedule
from ..training.choices import RelationKind
from ..training.error_bands import NUM_BANDS
from ..training.error_sensitivity import error_sensitivity, error_weights
from ..training.log import TableChange, TrainingLog
from ..training.loop import Trainer, train
from ..training.output_bias import fit_output_bias
from ..training.relations import (
    MemoryRelation,
    Relation,
    TimeSmoothedRelation,
)
from ..training.seeds import derived_seed
from ..training.student import LayerStart, Student, build_student
from ..training.trajectory_pool import PoolSettings, TrajectoryPool
from .quantize import QuantizedModel
from .recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainingRun:
    """What a training run is about, beside its start.

    Attributes:
        teacher: the full-precision model, in evaluation mode.
        model_config, scheduler_config: its configs.
        recipe: choices.
        num_steps: of the sampler.
        seed: of data and random choices.
        conditions: rows to choose from; None draws them.
        name: of this run and no other; a saved state of another is refused.
    """

    teacher: nn.Module
    model_config: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    recipe: Recipe
    num_steps: int
    seed: int
    conditions: Mapping[str, torch.Tensor] | None
    name: str

    @property
    def pool_settings(self) -> PoolSettings:
        """What walks."""
        training, recipe = self.recipe.training, self.recipe
        return PoolSettings(
            training.groups,
            training.images_per_group,
            self.num_steps,
            recipe.guidance,
            recipe.eta,
        )


def train_model(
    start: QuantizedModel,
    run: TrainingRun,
    state_file: Path | None,
    processes: Accelerator,
    progress: ProgressReporter,
) -> tuple[QuantizedModel, TrainingLog]:
    """Train, and return the model as it is deployed with the log of the run.

    It goes on from ``state_file`` where that exists.
    """
    choices, device = run.recipe.training, processes.device
    run.teacher.requires_grad_(False)
    offloading = choices.offload_teacher and device.type != "cpu"
    if not offloading:
        run.teacher.to(device)
    if device.type == "cuda":
        # TensorFloat-32 holds the integers of a trained layer exactly.
        torch.set_float32_matmul_precision("high")
    starts = {
        name: LayerStart(
            layer,
            start.plan.layers[name].weight_form,
            start.plan.bits[name].weight,
            start.channels.get(name),
            run.recipe.learns_rounding and start.plan.bits[name].weight < 8,
        )
        for name, layer in start.layers.items()
    }
    begin, resumed = choices, state_file is not None and state_file.exists()
    if resumed:  # the state's branches take the place of these
        begin = choices.model_copy(update={"low_rank_start": LowRankStart.ZERO})
    student = build_student(run.teacher, starts, begin, derived_seed("branches", run.seed))
    for name in _removed(start):
        # What the table replaces stays as it is in the teacher, to 8 bits what the table says.
        student.module.get_submodule(name).requires_grad_(False)
    student.module.to(device)
    if offloading:  # only now: the student took its weights from the teacher's
        from accelerate import cpu_offload

        cpu_offload(run.teacher, device)
    if choices.gradient_checkpointing:
        cast(Any, student.module).enable_gradient_checkpointing()
    pool_from = partial(
        _pool, run, device, rank=processes.process_index, world=processes.num_processes
    )
    relation = _relation(run, len(start.timesteps), processes)
    if resumed:  # and its weights of errors
        weights = torch.ones(len(_schedule(run).entries), NUM_BANDS)
    else:
        weights = _error_weights(run, student, processes, progress)
    trainer = Trainer(student, relation, choices, run.model_config, processes, weights, run.name)
    train(trainer, pool_from, state_file, progress)
    bias = start.output_bias
    by_channel = run.recipe.bias_correction
    if choices.output_bias or by_channel:
        # Every process fits all of it, on the same images.
        pool = _pool(run, processes.device, choices.updates)
        bias = fit_output_bias(student, run.model_config, pool, progress)
        if not by_channel:
            channels, *_ = architecture_of(run.model_config).sample_shape(run.model_config)
            bias = bias[:, :channels].mean(axis=1)
    gone = tuple(f"{name}." for name in _removed(start))
    trained = replace(
        start,
        layers=student.packed(),
        parameters={
            name: value
            for name, value in student.floating_point().items()
            if not name.startswith(gone)
        },
        output_bias=bias,
    )
    return trained, _log(trainer, student, start)


def _removed(start: QuantizedModel) -> Collection[str]:
    """The layers that a table of features stands for."""
    return () if start.cached is None else start.cached.config.removed


def _pool(
    run: TrainingRun, device: torch.device, first_update: int, rank: int = 0, world: int = 1
) -> TrajectoryPool:
    """The data from an update on, or a process's share of it."""
    return TrajectoryPool(
        run.teacher,
        run.model_config,
        run.scheduler_config,
        run.pool_settings,
        run.seed,
        first_update,
        run.conditions,
        rank,
        world,
        device,
    )


def _schedule(run: TrainingRun) -> SamplingSchedule:
    return sampling_schedule(run.scheduler_config, run.num_steps)


def _error_weights(
    run: TrainingRun, student: Student, processes: Accelerator, progress: ProgressReporter
) -> torch.Tensor:
    """How much errors at each step of the sampler count, in every process."""
    power = run.recipe.training.error_power
    steps = len(_schedule(run).entries)
    if power == 0:
        return torch.ones(steps, NUM_BANDS)
    if not processes.is_main_process:
        zeros = torch.zeros(steps, NUM_BANDS, device=processes.device)
        return cast(torch.Tensor, processes.reduce(zeros, "sum"))
    sensitivity = error_sensitivity(
        run.teacher,
        student,
        run.model_config,
        run.scheduler_config,
        run.pool_settings,
        run.seed,
        run.conditions,
        processes.device,
        progress,
    )
    weights = error_weights(sensitivity, power).to(processes.device)
    return cast(torch.Tensor, processes.reduce(weights, "sum"))


def _relation(run: TrainingRun, entries: int, processes: Accelerator) -> Relation | None:
    training = run.recipe.training
    match training.relation:
        case RelationKind.MEMORY:
            return MemoryRelation(training.memory, entries, run.seed, processes.gather)
        case RelationKind.TIME_SMOOTHED:
            return TimeSmoothedRelation(
                training.time_smoothed, run.seed, processes.gather, processes.process_index
            )
        case RelationKind.NONE:
            return None


def _log(trainer: Trainer, student: Student, start: QuantizedModel) -> TrainingLog:
    tables = {
        name: TableChange(
            first.act_scale,
            layer.act_scale().detach().cpu().numpy(),
            first.act_zero_point,
            layer.act_zero_point.detach().round().cpu().numpy().astype(np.int32),
        )
        for (name, layer), first in zip(student.layers.items(), start.layers.values(), strict=True)
    }
    return TrainingLog(tuple(trainer.records), tables, start.timesteps)
