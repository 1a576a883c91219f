"""Temporal features as a table: what layers would say, computed ahead, eight bits each.

"Temporal Feature Matters" (arXiv 2407.19547) stores the quantised features of every sampler step in
the place of the layers that make them. Here a channel has its own grid over all steps and labels::

    value[t, l, c] = fl(fl(code[t, l, c] * scale[c]) + offset[c])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .planes import ContractError

LARGEST_CODE = 127


@dataclass(frozen=True)
class FeatureTable:
    """Features of T steps and L labels, C channels in all.

    Attributes:
        codes: int8 ``[T, L, C]`` in -127 .. 127; L is 1 where no label is asked for.
        scale: float32 ``[C]``, at least 0.
        offset: float32 ``[C]``.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """What it takes, stored."""
        return self.codes.nbytes + self.scale.nbytes + self.offset.nbytes

    def values(self, step: int) -> NDArray[np.float32]:
        """The features of a step, float32 ``[L, C]``, two roundings each."""
        scaled: NDArray[np.float32] = self.codes[step].astype(np.float32) * self.scale
        return scaled + self.offset


def fit_feature_table(features: NDArray[np.float32]) -> FeatureTable:
    """The table of finite features ``[T, L, C]``: every channel from its least to its greatest."""
    wide = features.astype(np.float64)
    low, high = wide.min(axis=(0, 1)), wide.max(axis=(0, 1))
    scale = ((high - low) / (2 * LARGEST_CODE)).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 0
    offset = ((high + low) / 2).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scale > 0, np.rint((wide - offset) / scale.astype(np.float64)), 0)
    codes = codes.clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    return FeatureTable(codes, scale, offset)


def table_bytes(steps: int, labels: int, channels: int) -> int:
    """What a table of T, L and C takes, stored."""
    return channels * (steps * labels + 8)


def check_feature_table(table: FeatureTable) -> None:
    """Raise ContractError unless types, shapes and ranges are those of :class:`FeatureTable`."""
    codes, scale, offset = table.codes, table.scale, table.offset
    if codes.dtype != np.int8 or codes.ndim != 3 or 0 in codes.shape:
        raise ContractError(f"codes of features are {codes.dtype} {list(codes.shape)}")
    for name, value in (("scale", scale), ("offset", offset)):
        if value.dtype != np.float32 or value.shape != codes.shape[2:]:
            raise ContractError(f"the {name} of features is {value.dtype} {list(value.shape)}")
        if not np.all(np.isfinite(value)):
            raise ContractError(f"a {name} of features is not finite")
    if np.any(codes == -LARGEST_CODE - 1):
        raise ContractError(f"a code of features is {-LARGEST_CODE - 1}")
    if np.any((scale != 0) & (scale < np.finfo(np.float32).tiny)):
        raise ContractError("a scale of features is negative or denormal")
    if np.any(codes[:, :, scale == 0]):
        raise ContractError("a channel of features has codes and no scale")
    with np.errstate(over="ignore"):
        reach = np.float32(LARGEST_CODE) * scale + np.abs(offset)
    if not np.all(np.isfinite(reach)):
        raise ContractError("a feature could be infinite")
