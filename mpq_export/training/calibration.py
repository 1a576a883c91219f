"""What the inputs of every layer look like, step by step, along full-precision trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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
    """The inputs of one layer over all T steps.

    Attributes:
        low, high: float32 ``[T, I]``, least and greatest value of every channel.
        samples: float32 ``[T, n]``, values at fixed random places.
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
    num_steps: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, InputStatistics]:
    """Run through a trajectory and describe the input of every layer.

    ``layers`` are modules of the model that the trajectory runs; ``on_step`` reports progress.
    """
    generator = torch.Generator().manual_seed(seed)
    recorders = {name: _Recorder(module, num_steps, generator) for name, module in layers.items()}
    handles = [
        module.register_forward_pre_hook(recorders[name].hook) for name, module in layers.items()
    ]
    try:
        for _ in trajectory:
            on_step()
    finally:
        for handle in handles:
            handle.remove()
    return {name: recorder.statistics(name, num_steps) for name, recorder in recorders.items()}


class _Recorder:
    """Collects one layer's statistics; every call of the layer is the next step."""

    def __init__(self, module: Quantizable, num_steps: int, generator: torch.Generator) -> None:
        self.conv = geometry_of(module)
        self.patches_per_step = -(-PATCHES // num_steps)
        self.generator = generator
        self.places = torch.empty(0, dtype=torch.long)
        self.channels = 0
        self.low: list[torch.Tensor] = []
        self.high: list[torch.Tensor] = []
        self.samples: list[torch.Tensor] = []
        self.patches: list[torch.Tensor] = []

    def hook(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook."""
        x = inputs[0].detach().float().cpu()
        channels_last = x.permute(0, 2, 3, 1) if self.conv is not None else x
        rows = channels_last.reshape(-1, channels_last.shape[-1])
        if not self.low:
            self.places = self._random(rows.numel(), min(SAMPLES_PER_STEP, rows.numel()))
            self.channels = rows.shape[1]
        self.low.append(rows.amin(dim=0))
        self.high.append(rows.amax(dim=0))
        self.samples.append(rows.flatten()[self.places])
        if self.conv is None:
            self.patches.append(rows[self._random(len(rows), self.patches_per_step)])
        elif self.conv.group == 1:
            self.patches.append(self._conv_patches(x, self.conv))

    def statistics(self, name: str, num_steps: int) -> InputStatistics:
        """Everything seen; raises LayerError unless that is one finite input per step."""
        if len(self.low) != num_steps:
            raise LayerError(
                "The layer does not run once per denoising step",
                where=name,
                why=f"It ran {len(self.low)} times in {num_steps} steps of calibration",
            )
        for step, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not bool((low.isfinite() & high.isfinite()).all()):
                raise LayerError(
                    "The layer's input is not finite",
                    where=name,
                    why=f"The full-precision model gave it NaN or infinity in step {step}",
                )
        return InputStatistics(
            torch.stack(self.low),
            torch.stack(self.high),
            torch.stack(self.samples),
            self.places % self.channels,
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
        chosen = columns[:, self._random(columns.shape[1], self.patches_per_step)].T
        taps = conv.kernel_shape[0] * conv.kernel_shape[1]
        return chosen.unflatten(1, (-1, taps)).transpose(1, 2).flatten(1)

    def _random(self, size: int, count: int) -> torch.Tensor:
        return torch.randint(0, size, (count,), generator=self.generator)
