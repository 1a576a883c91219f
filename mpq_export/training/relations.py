"""Relation distillation: the student's pixels are to be as alike as the teacher's are.

What is compared is not a feature but the distribution of its similarities: each pixel's to a memory
of other images and timesteps (MPQ-DMv2), or to the other pixels of its image (MPQ-DM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch.nn import functional

from .pixel_queue import PixelQueue
from .relation_settings import MemorySettings, TimeSmoothedSettings
from .seeds import derived_seed
from .state_file import require, require_finite
from .trajectory_pool import DistillationBatch

State = Mapping[str, torch.Tensor]
Gather = Callable[[torch.Tensor], torch.Tensor]
"""The rows of all processes, concatenated in the same order in every process."""


class Relation(Protocol):
    """A loss of the student's features; random choices depend on the seed and the update alone."""

    def observe(self, batch: DistillationBatch) -> None:
        """Take a batch of the pool's warm-up, which the student does not see."""

    def loss(self, student_features: torch.Tensor, batch: DistillationBatch) -> torch.Tensor:
        """A scalar, 0 where the features ``[B, P, C]`` are the teacher's; once per update.

        With several processes the loss of the whole batch is the mean of theirs.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs to go on with the same bits, the same in all processes.

        All processes must ask for it together: what each remembers of its own is gathered.
        """

    def load(self, state: State) -> None:
        """Go on from a state, whose tensors may be on any device.

        Raises TrainingStateError unless it is of such a relation, here or at the next loss, where
        the shape of the features is known.
        """


class MemoryRelation:
    """Memory-based, time-aware: pixels against a queue of the teacher's, by timestep (MPQ-DMv2).

    At each update the teacher's pixels refresh the rings of the batch's timesteps, in all
    processes alike; then teacher and student are compared by their similarity to the same pixels,
    of all timesteps that are there.

    Args:
        settings: constants.
        num_entries: T, rows of the activation tables.
        seed: of the choices.
        gather: over processes.
    """

    def __init__(
        self,
        settings: MemorySettings,
        num_entries: int,
        seed: int,
        gather: Gather = lambda tensor: tensor,
    ) -> None:
        self._settings, self._seed, self._gather = settings, seed, gather
        self._num_entries = num_entries
        self._queue: PixelQueue | None = None

    def observe(self, batch: DistillationBatch) -> None:
        """Refresh the memory."""
        self._refreshed(batch)

    def loss(self, student_features: torch.Tensor, batch: DistillationBatch) -> torch.Tensor:
        """Mean KL divergence of the relations of ``rows_per_image`` pixels of each image."""
        queue = self._refreshed(batch)
        generator = _generator("memory sample", self._seed, batch.update)
        memory = queue.sample(max(1, self._settings.sampled // self._num_entries), generator)
        places = self._places("memory rows", self._settings.rows_per_image, batch)
        teacher, student = (
            _log_relation(_unit(features[:, places]), memory, self._settings.temperature)
            for features in (batch.features, student_features)
        )
        return _mean_divergence(teacher, student)

    def state(self) -> dict[str, torch.Tensor]:
        """The memory; nothing before the first batch."""
        return {} if self._queue is None else self._queue.state()

    def load(self, state: State) -> None:
        """Go on with a memory."""
        self._queue = PixelQueue.of_state(self._checked(state)) if state else None

    def _checked(self, state: State) -> State:
        require(set(state) == {"pixels", "written"}, "It is of another relation loss")
        pixels, written = state["pixels"], state["written"]
        rings = (self._num_entries, self._ring_size())
        require(pixels.ndim == 3 and pixels.shape[:2] == rings, "Its memory is of another size")
        require_finite(pixels, "the memory")
        counts = written.dtype == torch.int64 and written.shape == rings[:1]
        require(counts and bool((written >= 0).all()), "Its memory does not count its pixels")
        return state

    def _ring_size(self) -> int:
        return max(1, self._settings.capacity // self._num_entries)

    def _refreshed(self, batch: DistillationBatch) -> PixelQueue:
        places = self._places("memory push", self._settings.pushed_per_image, batch)
        pixels = _unit(batch.features[:, places])
        every, entries = self._gather(pixels), self._gather(batch.entries)
        if self._queue is None:
            self._queue = PixelQueue(
                self._num_entries, self._ring_size(), pixels.shape[-1], pixels.device
            )
        require(self._queue.channels == pixels.shape[-1], "Its pixels are of another model")
        self._queue.to(pixels.device)
        self._queue.push(every.flatten(0, 1), entries.repeat_interleave(every.shape[1]))
        return self._queue

    def _places(self, purpose: str, count: int, batch: DistillationBatch) -> torch.Tensor:
        return _random_places(purpose, self._seed, count, batch)


class TimeSmoothedRelation:
    """Pixels against their own image, in features smoothed over two steps (TRD of MPQ-DM).

    Features are the mean of this step's and the step's before on the same trajectory, whose graph
    is gone; an image at its first step has this step's alone. Published is 100 times the *sum* of
    the divergences beside a *summed* task loss: beside a mean task loss over ``C H W`` numbers per
    image that weighs ``100 * P / (C H W)`` times this mean, 33 for latents of 3 channels.

    Args:
        settings: constants.
        seed: of the choices.
        gather: over processes, used by :meth:`state` alone.
        rank: of this process in the order of ``gather``.
    """

    def __init__(
        self,
        settings: TimeSmoothedSettings,
        seed: int,
        gather: Gather = lambda tensor: tensor,
        rank: int = 0,
    ) -> None:
        self._settings, self._seed, self._gather, self._rank = settings, seed, gather, rank
        self._before: dict[str, torch.Tensor] = {}
        self._is_loaded = False

    def observe(self, batch: DistillationBatch) -> None:
        """The student has no features here, so that the next step has none before it."""
        self._before = {}

    def loss(self, student_features: torch.Tensor, batch: DistillationBatch) -> torch.Tensor:
        """Mean KL divergence of the relations of ``rows_per_image`` pixels of each image."""
        now = {"teacher": batch.features.float(), "student": student_features.float()}
        begins = (batch.steps == 0)[:, None, None]
        places = _random_places("image rows", self._seed, self._settings.rows_per_image, batch)
        relations = {}
        for name, features in now.items():
            before = self._own_before(name, features)
            image = _unit(torch.where(begins, features, (features + before) / 2))
            relations[name] = _log_relation(image[:, places], image, self._settings.temperature)
        self._before = {name: features.detach() for name, features in now.items()}
        self._is_loaded = False
        return _mean_divergence(**relations)

    def state(self) -> dict[str, torch.Tensor]:
        """The features of the step before; nothing before the first."""
        return {name: self._gather(features).clone() for name, features in self._before.items()}

    def load(self, state: State) -> None:
        """Go on after the step whose features these are."""
        require(set(state) in ({"teacher", "student"}, set()), "It is of another relation loss")
        for name, features in state.items():
            require_finite(features, f"the {name}'s features")
        self._before, self._is_loaded = dict(state), True

    def _own_before(self, name: str, features: torch.Tensor) -> torch.Tensor:
        """The features of the step before, or this step's where there was none."""
        if name not in self._before:
            return features
        before = self._before[name].to(features.device)
        if not self._is_loaded:
            return before
        # A loaded state holds the rows of all processes.
        own = before[self._rank * len(features) :][: len(features)]
        require(own.shape == features.shape, "Its features are of another model")
        return own


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Pixels of length 1 over their channels, the last axis; float32."""
    return functional.normalize(features.float(), dim=-1)


def _log_relation(pixels: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logarithms of pixels' distributions over what they are compared with.

    ``pixels`` ``[B, R, C]`` against ``memory`` ``[K, C]`` or ``[B, K, C]``, all of length 1.
    """
    return functional.log_softmax(pixels @ memory.transpose(-1, -2) / temperature, dim=-1)


def _mean_divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student), mean over rows ``[B, R]``."""
    rows = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return rows.mean()


def _random_places(purpose: str, seed: int, count: int, batch: DistillationBatch) -> torch.Tensor:
    """Random pixels, the same in all images, so that processes need not agree whose is whose."""
    pixels = batch.features.shape[1]
    order = torch.randperm(pixels, generator=_generator(purpose, seed, batch.update))
    return order[:count].to(batch.features.device)


def _generator(purpose: str, seed: int, update: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(purpose, seed, update))
