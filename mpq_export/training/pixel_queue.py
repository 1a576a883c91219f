"""A memory of pixels by timestep: one ring for every row of the activation tables."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class PixelQueue:
    """Rings of the latest pixels, float32, in memory that is all taken beforehand.

    Args:
        slots: T, how many rings.
        size: m, pixels in each.
        channels: C of a pixel.
        device: where they are kept.
    """

    def __init__(
        self, slots: int, size: int, channels: int, device: torch.device | str = "cpu"
    ) -> None:
        self._pixels = torch.zeros(slots, size, channels, device=device)
        self._written = torch.zeros(slots, dtype=torch.long, device=device)

    @property
    def channels(self) -> int:
        """C."""
        return self._pixels.shape[2]

    @classmethod
    def of_state(cls, state: Mapping[str, torch.Tensor]) -> PixelQueue:
        """The queue that :meth:`state` was taken of, on the device of its tensors."""
        pixels = state["pixels"]
        slots, size, channels = pixels.shape
        queue = cls(slots, size, channels, pixels.device)
        queue._pixels.copy_(pixels)
        queue._written.copy_(state["written"])
        return queue

    def state(self) -> dict[str, torch.Tensor]:
        """``pixels`` ``[T, m, C]`` and ``written`` int64 ``[T]``, all ever pushed; copies."""
        return {"pixels": self._pixels.clone(), "written": self._written.clone()}

    def to(self, device: torch.device) -> None:
        """Move all pixels, if they are elsewhere."""
        self._pixels, self._written = self._pixels.to(device), self._written.to(device)

    def push(self, pixels: torch.Tensor, slots: torch.Tensor) -> None:
        """Write pixels ``[N, C]`` into the rings ``slots`` ``[N]``, over the oldest ones there."""
        order = slots.argsort(stable=True)
        pixels, slots = pixels[order], slots[order]
        counts = torch.bincount(slots, minlength=len(self._written))
        turn = torch.arange(len(slots), device=slots.device) - (counts.cumsum(0) - counts)[slots]
        size = self._pixels.shape[1]
        kept = turn >= counts[slots] - size  # no place is written twice: the winner is undefined
        slots, turn = slots[kept], turn[kept]
        self._pixels[slots, (self._written[slots] + turn) % size] = pixels[kept]
        self._written += counts

    def sample(self, per_slot: int, generator: torch.Generator) -> torch.Tensor:
        """Random pixels ``[K, C]``, up to ``per_slot`` of every ring and none twice.

        ``generator`` is on the CPU, so that the choice is the same on every device.
        """
        slots, size, _ = self._pixels.shape
        device = self._pixels.device
        filled = self._written.clamp(max=size)[:, None]
        keys = torch.rand(slots, size, generator=generator).to(device)
        empty = torch.arange(size, device=device) >= filled
        places = (keys + empty).argsort(dim=1, stable=True)[:, :per_slot]
        present = torch.arange(places.shape[1], device=device) < filled
        rows = torch.arange(slots, device=device)[:, None]
        return self._pixels[rows, places][present]
