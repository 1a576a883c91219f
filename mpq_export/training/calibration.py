"""What the inputs of every layer look like, step by step, along full-precision trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..core.integer_reference import input_channels
from ..core.layers import Quantizable, geometry_of
from ..errors import LayerError
from .trajectories import TrajectoryStep

SAMPLES_PER_STEP = 4096
PATCHES = 256


@dataclass(frozen=True)
class InputStatistics:
    """The inputs of one layer for all T entries of the activation tables.

    Attributes:
        low, high: float32 ``[T, I]``, least and greatest value of every channel.
        samples: float32 ``[T, n]``, values at random places.
        sample_channels: int64 ``[n]``, the channel of each place.
        patches: float32 ``[m, K]``, rows that meet the weight matrix (columns in OHWI order),
            from all steps; None for grouped convolutions.
    """

    low: torch.Tensor
    high: torch.Tensor
    samples: torch.Tensor
    sample_channels: torch.Tensor
    patches: torch.Tensor | None

    def channel_range(self) -> torch.Tensor:
        """Greatest magnitude of every channel over all steps, float32 ``[I]``."""
        return torch.maximum(self.low.abs(), self.high.abs()).amax(dim=0)


def record_inputs(
    layers: Mapping[str, Quantizable],
    trajectory: Iterable[TrajectoryStep],
    entries: Sequence[int],
    calls_per_step: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, InputStatistics | None]:
    """Run through a trajectory and describe the input of every layer.

    Args:
        layers: modules of the model that the trajectory runs.
        trajectory: its steps.
        entries: the table entry of every step; the inputs of steps that share one are pooled.
        calls_per_step: into how many calls a step cuts its batch.
        seed: of the random places.
        on_step: reports progress.

    A layer that some entry never runs has None: its weights are unused, or read without a call.
    """
    generator = torch.Generator().manual_seed(seed)
    quota = PatchQuota.of(len(entries), calls_per_step)
    recorders = {
        name: _Recorder(module, max(entries) + 1, quota, generator)
        for name, module in layers.items()
    }
    handles = [
        module.register_forward_pre_hook(recorders[name].hook) for name, module in layers.items()
    ]
    try:
        steps = iter(trajectory)
        for step, entry in enumerate(entries):
            for recorder in recorders.values():
                recorder.begin(entry, step)
            next(steps)
            on_step()
    finally:
        for handle in handles:
            handle.remove()
    return {name: recorder.statistics(name) for name, recorder in recorders.items()}


@dataclass(frozen=True)
class PatchQuota:
    """How many patches a layer keeps: about ``PATCHES`` over all steps, never twice as many.

    Attributes:
        every: patches are taken from every so many-th step.
        per_step: patches from such a step.
        per_call: patches from one call of it, until the step's are full.
        rows: all of them.
    """

    every: int
    per_step: int
    per_call: int
    rows: int

    @classmethod
    def of(cls, num_steps: int, calls_per_step: int) -> PatchQuota:
        """The quota of a trajectory."""
        every = -(-num_steps // PATCHES)
        steps = -(-num_steps // every)
        per_step = -(-PATCHES // steps)
        return cls(every, per_step, -(-per_step // calls_per_step), steps * per_step)


class _Recorder:
    """Collects one layer's statistics, in memory that is all taken beforehand.

    What outlives a call must not be allocated during one: it would pin the heap between the
    model's large activations, and the process would grow with every call.
    """

    def __init__(
        self,
        module: Quantizable,
        num_entries: int,
        quota: PatchQuota,
        generator: torch.Generator,
    ) -> None:
        self.conv, self.quota, self.generator = geometry_of(module), quota, generator
        self.entry, self.patches_wanted = 0, 0
        columns = module.weight[0].numel()
        channels = input_channels(columns, self.conv)
        self.calls = torch.zeros(num_entries, dtype=torch.long)
        self.low = torch.full((num_entries, channels), torch.inf)
        self.high = torch.full((num_entries, channels), -torch.inf)
        self.samples = torch.zeros(num_entries, SAMPLES_PER_STEP)
        self.channels = self._random(channels, SAMPLES_PER_STEP)
        grouped = self.conv is not None and self.conv.group > 1
        self.patches = torch.zeros(0 if grouped else quota.rows, columns)
        self.patches_seen = 0

    def begin(self, entry: int, step: int) -> None:
        """The next calls belong to a table entry."""
        self.entry = entry
        wanted = 0 if step % self.quota.every else self.quota.per_step
        self.patches_wanted = min(wanted, len(self.patches) - self.patches_seen)

    def hook(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook."""
        x, entry = inputs[0].detach().float().cpu(), self.entry
        channels_last = x.permute(0, 2, 3, 1) if self.conv is not None else x
        rows = channels_last.reshape(-1, channels_last.shape[-1])
        self.low[entry] = torch.minimum(self.low[entry], rows.amin(dim=0))
        self.high[entry] = torch.maximum(self.high[entry], rows.amax(dim=0))
        self.calls[entry] += 1
        # Every call of an entry keeps an equal share of its places.
        renewed = torch.rand(SAMPLES_PER_STEP, generator=self.generator) < 1 / self.calls[entry]
        seen = rows[self._random(len(rows), SAMPLES_PER_STEP), self.channels]
        self.samples[entry] = torch.where(renewed, seen, self.samples[entry])
        if self.patches_wanted:
            count = min(self.patches_wanted, self.quota.per_call)
            end = self.patches_seen + count
            self.patches[self.patches_seen : end] = self._patches(x, rows, count)
            self.patches_seen, self.patches_wanted = end, self.patches_wanted - count

    def statistics(self, name: str) -> InputStatistics | None:
        """Everything seen, None if an entry saw nothing; raises LayerError unless it is finite."""
        if not bool(self.calls.all()):
            return None
        finite = (self.low.isfinite() & self.high.isfinite()).all(dim=1)
        if not bool(finite.all()):
            raise LayerError(
                "The layer's input is not finite",
                where=name,
                why="The full-precision model gave it NaN or infinity in step "
                f"{int(finite.int().argmin())}",
            )
        patches = self.patches[: self.patches_seen]
        return InputStatistics(
            self.low, self.high, self.samples, self.channels, patches if len(patches) else None
        )

    def _patches(self, x: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Random rows that meet the weight matrix, ``[m, K]``; a convolution's from one image."""
        if self.conv is None:
            return rows[self._random(len(rows), count)]
        conv = self.conv
        top, left, bottom, right = conv.pads
        image = x[self._random(len(x), 1)]
        padded = nn.functional.pad(image, (left, right, top, bottom))
        columns = nn.functional.unfold(padded, conv.kernel_shape, conv.dilations, 0, conv.strides)[
            0
        ]
        chosen = columns[:, self._random(columns.shape[1], count)].T
        taps = conv.kernel_shape[0] * conv.kernel_shape[1]
        return chosen.unflatten(1, (-1, taps)).transpose(1, 2).flatten(1)

    def _random(self, size: int, count: int) -> torch.Tensor:
        return torch.randint(0, size, (count,), generator=self.generator)
