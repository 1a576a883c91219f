"""What the inputs of every layer look like, step by step, along full-precision trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..core.integer_reference import ConvGeometry
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
    num_entries: int,
    calls_per_step: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, InputStatistics | None]:
    """Run through a trajectory and describe the input of every layer.

    Args:
        layers: modules of the model that the trajectory runs.
        trajectory: its steps.
        num_entries: T; steps of equal timestep share an entry, and their inputs are pooled.
        calls_per_step: into how many calls a step cuts its batch; only memory depends on it.
        seed: of the random places.
        on_step: reports progress.

    A layer that some entry never runs has None: its weights are unused, or read without a call.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = -(-PATCHES // (num_entries * calls_per_step))
    recorders = {
        name: _Recorder(module, num_entries, patches, generator) for name, module in layers.items()
    }
    handles = [
        module.register_forward_pre_hook(recorders[name].hook) for name, module in layers.items()
    ]
    try:
        for step in trajectory:
            for recorder in recorders.values():
                recorder.close_step(step.entry)
            on_step()
    finally:
        for handle in handles:
            handle.remove()
    return {name: recorder.statistics(name) for name, recorder in recorders.items()}


@dataclass
class _Seen:
    """What one or more calls of a layer saw: ``[I]``, ``[I]``, and a list of ``[n]``."""

    low: torch.Tensor
    high: torch.Tensor
    samples: list[torch.Tensor]

    def join(self, other: _Seen) -> _Seen:
        return _Seen(
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            [*self.samples, *other.samples],
        )

    def thinned(self, generator: torch.Generator) -> _Seen:
        """One list of ``[n]``: every place takes the sample of a call drawn at random."""
        mixed = torch.stack(self.samples)
        call = torch.randint(0, len(mixed), mixed.shape[1:], generator=generator)
        return _Seen(self.low, self.high, [mixed.gather(0, call[None])[0]])


@dataclass
class _Recorder:
    """Collects one layer's statistics: calls are pooled into steps, steps into table entries."""

    module: Quantizable
    num_entries: int
    patches_per_call: int
    generator: torch.Generator
    conv: ConvGeometry | None = field(init=False)
    channels: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    step: _Seen | None = None
    entries: dict[int, _Seen] = field(default_factory=dict)
    patches: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conv = geometry_of(self.module)

    def hook(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook."""
        x = inputs[0].detach().float().cpu()
        channels_last = x.permute(0, 2, 3, 1) if self.conv is not None else x
        rows = channels_last.reshape(-1, channels_last.shape[-1])
        if not len(self.channels):
            self.channels = self._random(rows.shape[1], SAMPLES_PER_STEP)
        samples = rows[self._random(len(rows), SAMPLES_PER_STEP), self.channels]
        seen = _Seen(rows.amin(dim=0), rows.amax(dim=0), [samples])
        self.step = seen if self.step is None else self.step.join(seen)
        if self.conv is None:
            self.patches.append(rows[self._random(len(rows), self.patches_per_call)])
        elif self.conv.group == 1:
            self.patches.append(self._conv_patches(x, self.conv))

    def close_step(self, entry: int) -> None:
        """What was seen since the last step belongs to a table entry."""
        if self.step is not None:
            step, before = self.step.thinned(self.generator), self.entries.get(entry)
            self.entries[entry] = step if before is None else before.join(step)
        self.step = None

    def statistics(self, name: str) -> InputStatistics | None:
        """Everything seen, None if an entry saw nothing; raises LayerError unless it is finite."""
        if len(self.entries) != self.num_entries:
            return None
        entries = [self.entries[index].thinned(self.generator) for index in range(self.num_entries)]
        for index, seen in enumerate(entries):
            if not bool((seen.low.isfinite() & seen.high.isfinite()).all()):
                raise LayerError(
                    "The layer's input is not finite",
                    where=name,
                    why=f"The full-precision model gave it NaN or infinity in step {index}",
                )
        return InputStatistics(
            torch.stack([seen.low for seen in entries]),
            torch.stack([seen.high for seen in entries]),
            torch.stack([seen.samples[0] for seen in entries]),
            self.channels,
            torch.cat(self.patches) if self.patches else None,
        )

    def _conv_patches(self, x: torch.Tensor, conv: ConvGeometry) -> torch.Tensor:
        """Random receptive fields of one image, ``[m, K]`` in OHWI order."""
        top, left, bottom, right = conv.pads
        image = x[self._random(len(x), 1)]
        padded = nn.functional.pad(image, (left, right, top, bottom))
        columns = nn.functional.unfold(padded, conv.kernel_shape, conv.dilations, 0, conv.strides)[
            0
        ]
        chosen = columns[:, self._random(columns.shape[1], self.patches_per_call)].T
        taps = conv.kernel_shape[0] * conv.kernel_shape[1]
        return chosen.unflatten(1, (-1, taps)).transpose(1, 2).flatten(1)

    def _random(self, size: int, count: int) -> torch.Tensor:
        return torch.randint(0, size, (count,), generator=self.generator)
