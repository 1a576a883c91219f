"""The data of data-free distillation: images on full-precision trajectories, always under way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of
from ..errors import RecipeError
from ..prediction import predict
from ..schedulers import SamplingSchedule, sampling_schedule
from .condition_rows import condition_rows
from .features import captured_features
from .guidance import Guidance
from .sampling_walk import SamplingWalk
from .seeds import derived_seed


@dataclass(frozen=True)
class PoolSettings:
    """What walks, and how.

    Attributes:
        groups: groups of images, spread evenly over the sampler's steps, so that a batch holds
            several timesteps. One group is EfficientDM's and MPQ-DM's training.
        images_per_group: images that are at the same step.
        num_steps: of the sampler.
        guidance: classifier-free guidance scale that drives the trajectories; 1 is none.
        eta: of schedulers whose step takes it (DDIM: 0 deterministic, 1 as DDPM); None is the
            scheduler's own.
    """

    groups: int
    images_per_group: int
    num_steps: int
    guidance: float = 1.0
    eta: float | None = None

    def __post_init__(self) -> None:
        for name in ("groups", "images_per_group"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"{name} {getattr(self, name)} is not possible", where=name, fix="Take 1"
                )
        if not math.isfinite(self.guidance):
            raise RecipeError("The guidance is no number", where="guidance", fix="Try 1.5")
        if self.eta is not None and not 0 <= self.eta < math.inf:
            raise RecipeError(f"eta {self.eta} is not usable", where="eta", fix="Take 0 to 1")


@dataclass(frozen=True)
class DistillationBatch:
    """What teacher and student see in one update, and what the teacher said.

    With R images under way there are ``B = R`` rows, or under guidance ``B = 2 R``: every image
    unconditionally, then every image with its conditions. All tensors are on the pool's device.

    Attributes:
        update: the number of the update.
        entries: int64 ``[B]``, rows of the activation tables.
        timesteps: ``[B]``, the scheduler's.
        steps: int64 ``[B]``, how many steps the trajectory of each row has behind it.
        sample: float32 ``[B, C, H, W]``, scaled as the model wants it.
        conditions: one row each.
        prediction: float32 ``[B, C', H, W]``, the teacher's for each row.
        target: float32 ``[R, C', H, W]``, the same with guidance applied: what drives the
            trajectories, and what :meth:`TrajectoryPool.combined` makes of a student's prediction.
        features: ``[B, P, C]``, the teacher's last pixels or tokens.
    """

    update: int
    entries: torch.Tensor
    timesteps: torch.Tensor
    steps: torch.Tensor
    sample: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    prediction: torch.Tensor
    target: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True)
class _Round:
    """One group from noise to its last step."""

    walk: SamplingWalk
    conditions: Mapping[str, torch.Tensor]


class TrajectoryPool:
    """Groups of images that walk along trajectories of the full-precision model, without end.

    One forward of the teacher on all images gives the targets of an update and moves every group
    by one step; a group that has arrived starts again from new noise and conditions. The batch of
    an update is a function of the seed and the update's number: the updates before the first are
    made up for with the teacher alone, in batches of the same shape, so that a resumed run sees
    the same bits on the same machine.

    Args:
        teacher: the full-precision model, in evaluation mode.
        model_config, scheduler_config: its configs.
        settings: what walks.
        seed: of noise and conditions.
        first_update: 0, or where a run that is resumed goes on.
        conditions: rows to choose from, see :func:`.condition_rows.condition_rows`; None draws.
        rank, world: this process and the number of all. A process walks every ``world``-th group;
            noise and conditions of a group are the same for any ``world`` (what the teacher says
            is so up to the rounding of a batch of another size).
        device: where the teacher computes; None is where its weights lie, which must be named
            for a teacher whose weights are only brought there when they are needed.

    Raises RecipeError if the groups cannot be shared out, the model cannot be guided, or the
    scheduler takes no eta.
    """

    def __init__(
        self,
        teacher: nn.Module,
        model_config: Mapping[str, Any],
        scheduler_config: Mapping[str, Any],
        settings: PoolSettings,
        seed: int,
        first_update: int = 0,
        conditions: Mapping[str, torch.Tensor] | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
    ) -> None:
        require_even_share(settings.groups, world)
        self.schedule: SamplingSchedule = sampling_schedule(scheduler_config, settings.num_steps)
        channels, height, width = architecture_of(model_config).sample_shape(model_config)
        self._shape = (settings.images_per_group, channels, height, width)
        self._guidance = Guidance(settings.guidance, channels)
        self._rows = condition_rows(model_config, conditions, guided=self._guidance.copies == 2)
        self._teacher, self._model_config = teacher, model_config
        self._scheduler_config, self._settings, self._seed = scheduler_config, settings, seed
        self._device = next(teacher.parameters()).device if device is None else device
        self._groups = range(rank, settings.groups, world)
        self._first, self._update = first_update, first_update - self.warm_up_updates
        # The round that a group is in when the warm-up begins is over before the first update: the
        # group walks its next round early, and starts it again when it is due.
        self._rounds = [
            self._round(group, -(-self._way(group) // self._length)) for group in self._groups
        ]

    @property
    def warm_up_updates(self) -> int:
        """How many updates before the first are walked: all steps of the sampler but one."""
        return self._length - 1

    def warm_up(self) -> Iterator[DistillationBatch]:
        """Walk the updates before the first, if that has not been done yet.

        Every batch is on full-precision trajectories, and fit to fill what remembers the teacher.
        """
        while self._update < self._first:
            yield self._walked()

    def next(self) -> DistillationBatch:
        """The batch of the next update; warms up first, if that has not been done yet."""
        for _ in self.warm_up():
            pass
        return self._walked()

    def combined(self, prediction: torch.Tensor) -> torch.Tensor:
        """A prediction ``[B, C', H, W]`` for a batch with guidance applied, ``[R, C', H, W]``.

        It is what the loss compares with ``batch.target``.
        """
        return self._guidance.combined(prediction)

    @property
    def _length(self) -> int:
        return len(self.schedule.entries)

    def _way(self, group: int) -> int:
        """Steps since the group's round 0 began; groups begin evenly spread over the steps."""
        return self._update + group * self._length // self._settings.groups

    def _round(self, group: int, number: int) -> _Round:
        seed, settings = derived_seed("trajectory", self._seed, group, number), self._settings
        walk = SamplingWalk(
            self._scheduler_config,
            settings.num_steps,
            self._shape,
            seed,
            settings.eta,
            self._device,
        )
        return _Round(walk, self._rows(settings.images_per_group, seed))

    @torch.no_grad()
    def _walked(self) -> DistillationBatch:
        """The batch of this update; every group has then taken its step."""
        for place, group in enumerate(self._groups):
            number, position = divmod(self._way(group), self._length)
            if position == 0:
                self._rounds[place] = self._round(group, number)
        batch = self._batch()
        for round_, output in zip(
            self._rounds, batch.target.split(self._settings.images_per_group), strict=True
        ):
            round_.walk.advance(output)
        self._update += 1
        return batch

    def _batch(self) -> DistillationBatch:
        walks = [round_.walk for round_ in self._rounds]
        steps = torch.tensor([walk.step for walk in walks])
        timesteps = self._per_row(torch.stack([walk.timestep for walk in walks]))
        images = torch.cat([walk.model_input() for walk in walks])
        sample = images.repeat(self._guidance.copies, 1, 1, 1)
        conditions = self._conditions()
        with captured_features(self._teacher, self._model_config) as features:
            prediction = predict(self._teacher, self._model_config, sample, timesteps, conditions)
        return DistillationBatch(
            update=self._update,
            entries=self._per_row(torch.from_numpy(self.schedule.entries)[steps]),
            timesteps=timesteps,
            steps=self._per_row(steps),
            sample=sample,
            conditions=conditions,
            prediction=prediction,
            target=self.combined(prediction),
            features=features.pixels,
        )

    def _per_row(self, values: torch.Tensor) -> torch.Tensor:
        """One value of each group, for each of its rows."""
        images = values.repeat_interleave(self._settings.images_per_group)
        return images.repeat(self._guidance.copies).to(self._device)

    def _conditions(self) -> dict[str, torch.Tensor]:
        """The groups' rows; under guidance, all unconditional ones first."""
        groups = [round_.conditions for round_ in self._rounds]
        images = self._settings.images_per_group
        return {
            name: torch.cat(
                [
                    group[name][copy * images : (copy + 1) * images]
                    for copy in range(self._guidance.copies)
                    for group in groups
                ]
            ).to(self._device)
            for name in groups[0]
        }


def require_even_share(groups: int, world: int) -> None:
    """Raise RecipeError unless every one of ``world`` processes gets as many groups."""
    if groups % world:
        raise RecipeError(
            f"{groups} groups cannot be shared by {world} processes",
            where="groups",
            fix=f"Take a multiple of {world}",
        )
