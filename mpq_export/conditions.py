"""What a denoiser takes beside the sample and the timestep: one frozen record per input.

Every record says how the input looks per image, and draws values that stand for real ones where
nothing better is known. Works without torch, so that boards can read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BATCH, TOKENS = "batch", "tokens"
"""Names of the axes whose length is free in an exported graph."""


class Condition(Protocol):
    """An input with one row per image.

    ``name`` is diffusers' and the exported graph's; ``inside`` is the dictionary argument that
    holds it in diffusers' call, or None.
    """

    @property
    def name(self) -> str:
        """Name of the input."""

    @property
    def inside(self) -> str | None:
        """Dictionary argument that holds it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's row."""

    @property
    def dtype(self) -> type[np.generic]:
        """Element type in every runtime."""

    @property
    def free_axes(self) -> dict[int, str]:
        """Axes of the batched array whose length is free, by name."""

    def draw(self, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """``[B, *shape]``: random values in the place of real ones."""


def _free_axes(free_length: bool) -> dict[int, str]:
    """The batch, and where the number of tokens is free, that."""
    return {0: BATCH, 1: TOKENS} if free_length else {0: BATCH}


@dataclass(frozen=True)
class ClassLabels:
    """A whole number per image, int64 ``[B]``.

    It is below ``classes``, or ``null``: the label of no class, which guidance uses for half of a
    batch.
    """

    name: str
    classes: int
    null: int | None = None
    inside: str | None = None
    shape: tuple[int, ...] = ()
    dtype: type[np.generic] = np.int64

    @property
    def count(self) -> int:
        """How many labels there are, null included: 0 to one less."""
        return max(self.classes, 0 if self.null is None else self.null + 1)

    @property
    def free_axes(self) -> dict[int, str]:
        """The batch."""
        return {0: BATCH}

    def draw(self, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """Uniform labels; every second one is null where there is such a label."""
        labels = rng.integers(0, self.classes, batch)
        if self.null is not None:
            labels[1::2] = self.null
        return labels


@dataclass(frozen=True)
class Embedding:
    """A float32 array per image; with ``free_length`` its first axis is a number of tokens."""

    name: str
    shape: tuple[int, ...]
    inside: str | None = None
    free_length: bool = False
    dtype: type[np.generic] = np.float32

    @property
    def free_axes(self) -> dict[int, str]:
        """The batch, and the tokens."""
        return _free_axes(self.free_length)

    def draw(self, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """Standard normal values."""
        return rng.standard_normal((batch, *self.shape), dtype=np.float32)


@dataclass(frozen=True)
class Typical:
    """A float32 vector per image whose usual values are known, such as an image size or a mask."""

    name: str
    values: tuple[float, ...]
    inside: str | None = None
    free_length: bool = False
    dtype: type[np.generic] = np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of the vector."""
        return (len(self.values),)

    @property
    def free_axes(self) -> dict[int, str]:
        """The batch, and the tokens."""
        return _free_axes(self.free_length)

    def draw(self, batch: int, _rng: np.random.Generator) -> NDArray[np.generic]:
        """The usual values for every image."""
        return np.tile(np.array(self.values, np.float32), (batch, 1))
