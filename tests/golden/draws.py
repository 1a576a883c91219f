"""Numbers that are the same on every machine and with every numpy.

numpy promises that the raw stream of a bit generator never changes, but not what ``Generator``'s
methods make of it; nor do mathematical libraries agree on the last bit of a logarithm. So golden
cases are drawn from raw bits with plain arithmetic.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Shape = int | tuple[int, ...]


class Draws:
    """A stream of numbers fixed by its seed."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.PCG64(seed)

    @classmethod
    def named(cls, name: str) -> Draws:
        """The stream of a case."""
        return cls(crc32(name.encode()))

    def integers(self, low: int, high: int, shape: Shape = ()) -> NDArray[np.int64]:
        """Whole numbers in ``low .. high``, both ends included."""
        raw = self._raw(shape) % np.uint64(high - low + 1)
        return low + raw.astype(np.int64)

    def unit(self, shape: Shape = ()) -> NDArray[np.float64]:
        """Float64 in ``[0, 1)``."""
        return (self._raw(shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bell(self, shape: Shape = ()) -> NDArray[np.float64]:
        """Roughly normal float64, mean 0, variance 1, within +-6."""
        size = (shape,) if isinstance(shape, int) else shape
        parts = self.unit((12, *size))
        total = np.zeros(size)
        for part in parts:
            total = total + part
        return total - 6.0

    def _raw(self, shape: Shape) -> NDArray[np.uint64]:
        count = int(np.prod(shape, dtype=np.int64))
        return np.asarray(self._stream.random_raw(count), np.uint64).reshape(shape)
