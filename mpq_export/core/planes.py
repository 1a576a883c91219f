"""The bit-plane contract in numpy: the definition that every other backend reproduces exactly.

A weight matrix of ``O`` rows and ``K`` columns is stored as bit planes. Row ``o`` has ``P_o``
planes, an int8 offset ``c0``, one int8 step ``d_p`` per plane and a float32 scale ``S > 0``::

    w_int[o, k] = c0[o] + sum_p d_p[o] * bit_p[o, k]        w[o, k] = S[o] * w_int[o, k]

This file holds the weights: their invariants, how real levels are snapped to them, and the
canonical packed form. :mod:`.integer_reference` holds what a layer computes with them. The
byte-level specification for other implementers is ``docs/format.md``.

Legend: O rows (output channels), K columns, P planes of the widest row, R = sum_p rows with
plane p, W = ceil(K / 32).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 127
MAX_PLANES = 8
MAX_COLUMNS = (2**31 - 1) // (255 * LIMIT)
"""Largest K whose int32 accumulator cannot overflow: 255 * 127 * K < 2**31."""
WORD_BITS = 32

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Uint8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class ContractError(ValueError):
    """Data that breaks the bit-plane contract."""


@dataclass(frozen=True)
class PlaneMatrix:
    """A quantised matrix in the clear, rows in original order.

    Attributes:
        offset: int8 ``[O]``, ``c0``.
        steps: int8 ``[O, P]``, ``d_p``; 0 where a row has no plane p.
        codes: uint8 ``[O, K]``; bit p is ``bit_p``; 0 where a row has no plane p.
        plane_count: int64 ``[O]``, ``P_o``, 1..8.
        scale: float32 ``[O]``, ``S``, positive and normal.
    """

    offset: Int8
    steps: Int8
    codes: Uint8
    plane_count: NDArray[np.int64]
    scale: Float32

    def integers(self) -> Int8:
        """``w_int``, int8 ``[O, K]``."""
        return integers(self.offset, self.steps, self.codes)

    def weights(self) -> Float32:
        """The weights that are meant, float32 ``[O, K]``: ``S * w_int``."""
        return self.scale[:, None] * self.integers().astype(np.float32)


@dataclass(frozen=True)
class PackedMatrix:
    """A quantised matrix in canonical form: rows sorted by plane count, descending and stable.

    Attributes:
        planes: int32 ``[R, W]``, plane-major; bit k of a row is bit ``k % 32`` of word ``k // 32``.
        plane_rows: int32 ``[P]``, how many rows have plane p.
        steps: int8 ``[1 + P, O]``, row 0 is ``c0``, row 1 + p is ``d_p``; sorted order.
        scale: float32 ``[O]``; sorted order.
        row_order: int32 ``[O]``, original row of sorted row j.
        columns: K.
    """

    planes: Int32
    plane_rows: Int32
    steps: Int8
    scale: Float32
    row_order: Int32
    columns: int

    @property
    def rows(self) -> int:
        """O."""
        return len(self.row_order)


def integers(offset: Int8, steps: Int8, codes: Uint8) -> Int8:
    """``c0 + sum_p d_p * bit_p``, int8 ``[O, K]``; planes may be added in any order."""
    total = np.broadcast_to(offset[:, None], codes.shape).astype(np.int8)
    for plane in range(steps.shape[1]):
        total += steps[:, plane, None] * ((codes >> plane) & 1).astype(np.int8)
    return total


def level_table(offset: Int8, steps: Int8) -> NDArray[np.int16]:
    """All ``2**P`` sums of every row by code, int16 ``[O, 2**P]``."""
    codes = np.arange(2 ** steps.shape[1])
    bits = (codes[None, :] >> np.arange(steps.shape[1])[:, None]) & 1
    return (offset[:, None].astype(np.int32) + steps.astype(np.int32) @ bits).astype(np.int16)


# --- snapping ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SnappedLevels:
    """Integer levels with the float64 scale they were rounded at: scale ``[O]``, ``[O, P]``."""

    scale: Float64
    offset: Int8
    steps: Int8


def snap_levels(offset: Float64, steps: Float64) -> SnappedLevels:
    """Round real levels to integers that keep every subset sum in [-127, 127].

    Args:
        offset: float64 ``[O]``, the level of code 0.
        steps: float64 ``[O, P]``, one real step per plane, all ``>= 0``.

    ``S = max(max |level|, max d) / 127``, rounding half to even; while an invariant is broken
    ``S *= 1.002``. Rows without a usable scale come back with scale 0 and all-zero integers.
    """
    if np.any(steps < 0):
        raise ContractError("steps must be made non-negative before they are snapped")
    top = offset + steps.sum(axis=1)
    reach = np.maximum(np.maximum(np.abs(offset), np.abs(top)), steps.max(axis=1, initial=0.0))
    usable = np.isfinite(reach) & (reach / LIMIT >= np.finfo(np.float32).tiny)
    scale = np.where(usable, reach / LIMIT, 1.0)
    safe_offset, safe_steps = np.where(usable, offset, 0.0), np.where(usable[:, None], steps, 0.0)
    while True:
        whole_offset = np.rint(safe_offset / scale)
        whole_steps = np.rint(safe_steps / scale[:, None])
        broken = (
            (whole_offset < -LIMIT)
            | (whole_offset + whole_steps.sum(axis=1) > LIMIT)
            | (whole_steps > LIMIT).any(axis=1)
        )
        if not broken.any():
            break
        scale[broken] *= 1.002
    return SnappedLevels(
        np.where(usable, scale, 0.0), whole_offset.astype(np.int8), whole_steps.astype(np.int8)
    )


def nearest_codes(weights: Float64, levels: SnappedLevels) -> Uint8:
    """The code of the nearest snapped level, uint8 ``[O, K]``.

    Ties go to the lower level, equal levels to the smallest code. The border between two
    neighbouring levels is ``S * ((L_i + L_{i+1}) / 2)`` in float64.
    """
    table = level_table(levels.offset, levels.steps)
    by_level = np.argsort(table, axis=1, kind="stable")
    ordered = np.take_along_axis(table, by_level, axis=1)
    repeats = np.zeros_like(ordered, dtype=bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    first = np.maximum.accumulate(np.where(repeats, 0, np.arange(ordered.shape[1])), axis=1)
    smallest_code = np.take_along_axis(by_level, first, axis=1).astype(np.uint8)
    borders = levels.scale[:, None] * ((ordered[:, 1:] + ordered[:, :-1]) * 0.5)
    position = np.zeros(weights.shape, np.uint8)
    for column in range(borders.shape[1]):
        position += weights > borders[:, column, None]
    return np.take_along_axis(smallest_code, position.astype(np.intp), axis=1)


def quantize_rows(
    weights: Float64, levels: SnappedLevels, plane_count: NDArray[np.int64] | None = None
) -> PlaneMatrix:
    """Give every weight its nearest level and refit each row's scale once.

    Args:
        weights: float64 ``[O, K]``, finite.
        levels: integer levels with the scale that decides what is nearest.
        plane_count: int64 ``[O]``; P for every row when left out.

    The stored scale is ``<w, L> / <L, L>`` as float32; codes are kept. A row that is constant, or
    whose scale would not be a normal positive float32, is fitted by one level (its mean); an
    all-zero row is offset 0, bits 0, scale 1.
    """
    codes = nearest_codes(weights, levels)
    level = integers(levels.offset, levels.steps, codes).astype(np.float64)
    energy = np.einsum("ok,ok->o", level, level)
    scale = np.einsum("ok,ok->o", weights, level) / np.where(energy > 0, energy, 1.0)
    limits = np.finfo(np.float32)
    with np.errstate(over="ignore"):
        stored = scale.astype(np.float32)
    ordinary = (
        (levels.scale > 0)
        & (weights.max(axis=1) > weights.min(axis=1))
        & np.isfinite(stored)
        & (stored >= limits.tiny)
    )
    mean = weights.mean(axis=1).astype(np.float32)
    flat = np.abs(mean) >= limits.tiny
    single_offset = np.where(flat, np.sign(mean), 0).astype(np.int8)
    single_scale = np.where(flat, np.abs(mean), np.float32(1))
    rows, planes = levels.steps.shape
    if plane_count is None:
        plane_count = np.full(rows, planes, np.int64)
    return PlaneMatrix(
        offset=np.where(ordinary, levels.offset, single_offset).astype(np.int8),
        steps=np.where(ordinary[:, None], levels.steps, 0).astype(np.int8),
        codes=np.where(ordinary[:, None], codes, 0).astype(np.uint8),
        plane_count=plane_count,
        scale=np.where(ordinary, stored, single_scale).astype(np.float32),
    )


# --- canonical packed form --------------------------------------------------------------------


def words_per_row(columns: int) -> int:
    """W, the 32-bit words that hold one plane of a row."""
    return -(-columns // WORD_BITS)


def pack(matrix: PlaneMatrix) -> PackedMatrix:
    """Bring a matrix to canonical form; raises :class:`ContractError` if it breaks the contract."""
    columns = matrix.codes.shape[1]
    if matrix.plane_count.min(initial=1) < 1:
        raise ContractError("a row has no planes")
    order = np.argsort(-matrix.plane_count, kind="stable")
    count, codes = matrix.plane_count[order], matrix.codes[order]
    planes = int(count.max(initial=0))
    if np.any(matrix.steps[:, planes:]):
        raise ContractError("a step beyond the row's plane count is not zero")
    plane_rows = np.array([(count > p).sum() for p in range(planes)], np.int32)
    padded = words_per_row(columns) * WORD_BITS
    stored = []
    for plane, rows in enumerate(plane_rows):
        bits = np.zeros((rows, padded), np.uint8)
        bits[:, :columns] = (codes[:rows] >> plane) & 1
        stored.append(np.packbits(bits, axis=1, bitorder="little").view("<i4"))
    packed = PackedMatrix(
        planes=np.concatenate(stored).astype(np.int32, copy=False),
        plane_rows=plane_rows,
        steps=np.concatenate(
            [matrix.offset[order, None], matrix.steps[order, :planes]], axis=1
        ).T.copy(),
        scale=matrix.scale[order],
        row_order=order.astype(np.int32),
        columns=columns,
    )
    check(packed)
    if not np.array_equal(unpack(packed).codes, matrix.codes):
        raise ContractError("a code has bits beyond its row's plane count")
    return packed


def unpack(packed: PackedMatrix) -> PlaneMatrix:
    """The inverse of :func:`pack`. The matrix must have passed :func:`check`."""
    rows, planes = packed.rows, len(packed.plane_rows)
    bits = np.unpackbits(
        packed.planes.astype("<i4", copy=False).view(np.uint8),
        axis=1,
        count=packed.columns,
        bitorder="little",
    )
    codes = np.zeros((rows, packed.columns), np.uint8)
    start = 0
    for plane, count in enumerate(packed.plane_rows):
        codes[:count] |= bits[start : start + count] << plane
        start += count
    plane_count = (np.arange(rows)[:, None] < packed.plane_rows[None, :]).sum(axis=1)
    original = np.empty(rows, np.intp)
    original[packed.row_order] = np.arange(rows)
    return PlaneMatrix(
        offset=packed.steps[0, original],
        steps=packed.steps[1 : 1 + planes, original].T.copy(),
        codes=codes[original],
        plane_count=plane_count[original],
        scale=packed.scale[original],
    )


def check(packed: PackedMatrix) -> None:
    """Raise :class:`ContractError` unless the matrix is canonical and keeps every invariant.

    Reads the arrays only; safe on hostile input whose array sizes have been capped.
    """
    rows, planes, columns = packed.row_order.size, packed.plane_rows.size, packed.columns
    _require(1 <= columns <= MAX_COLUMNS, f"{columns} columns; 1 to {MAX_COLUMNS} are allowed")
    _require(rows >= 1, "the matrix has no rows")
    _require(1 <= planes <= MAX_PLANES, f"{planes} planes; 1 to {MAX_PLANES} are allowed")
    _expect("plane_rows", packed.plane_rows, np.int32, (planes,))
    _expect("row_order", packed.row_order, np.int32, (rows,))
    _expect("scale", packed.scale, np.float32, (rows,))
    _expect("steps", packed.steps, np.int8, (1 + planes, rows))
    counts = packed.plane_rows.astype(np.int64)
    _require(counts[0] == rows, "plane 0 must be there for every row")
    _require(
        bool(np.all(counts[1:] <= counts[:-1])) and counts[-1] >= 1,
        "plane_rows must not increase, and the last plane must have rows",
    )
    _expect("planes", packed.planes, np.int32, (int(counts.sum()), words_per_row(columns)))
    _require(
        np.array_equal(np.sort(packed.row_order), np.arange(rows)), "row_order is no permutation"
    )
    owned = np.arange(rows)[None, :] < counts[:, None]
    same_group = (owned[:, 1:] == owned[:, :-1]).all(axis=0)
    _require(
        bool(np.all(np.diff(packed.row_order.astype(np.int64))[same_group] > 0)),
        "rows of equal plane count are not in original order",
    )
    offset, steps = packed.steps[0].astype(np.int32), packed.steps[1:].astype(np.int32)
    _require(bool(np.all(steps >= 0)), "a step is negative")
    _require(bool(np.all(steps[~owned] == 0)), "a step beyond the row's plane count is not zero")
    _require(bool(np.all(offset >= -LIMIT)), f"an offset is below -{LIMIT}")
    _require(bool(np.all(offset + steps.sum(axis=0) <= LIMIT)), f"a row can exceed {LIMIT}")
    tiny = np.finfo(np.float32).tiny
    _require(
        bool(np.all(np.isfinite(packed.scale) & (packed.scale >= tiny))),
        "a scale is not a normal positive float32",
    )
    spare = words_per_row(columns) * WORD_BITS - columns
    if spare:
        last = packed.planes[:, -1].astype(np.int64) & 0xFFFFFFFF
        _require(not np.any(last >> (WORD_BITS - spare)), "a padding bit is set")


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _expect(name: str, array: NDArray[np.generic], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ContractError(
            f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}"
        )
