"""The order in which GPU kernels read a packed layer, made from the canonical form and undone.

A permutation of the canonical bits, specified in ``docs/gpu_kernels.md``: rows stay sorted by plane
count and are cut into *tiles* of 32, columns into *blocks* of 128, and every lane of a warp finds
its part of a plane of half a block in 64 bits. A tile has the planes of its first row, so rows of
different plane counts run in one launch, and no more than 31 rows per plane count carry planes
they do not have. Whatever runs or writes packed layers for GPUs calls
:func:`to_kernel_layout`: runtimes when they load, the TensorRT lowering when it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .integer_reference import PackedLayer, column_factors
from .planes import WORD_BITS, Float32, Int8, Int32, PackedMatrix, Uint8, unpack

LAYOUT = "mma-1"
"""Name and version of this order."""
TILE_ROWS = 32
BLOCK_COLUMNS = 128
CHANNEL_ALIGNMENT = 16
"""Channels of a group are padded to this many, so that 16-byte copies never cross a tap."""
_LANES = 32
_NIBBLES = 8
_QUARTERS = 4
_GROUP_PLANES = 4

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class KernelLayer:
    """A layer's rows as kernels read them.

    Legend: G groups of the convolution, U tiles of all groups, V = 32 U padded rows, P planes of
    the widest row, B blocks of a row.

    Attributes:
        words: int32 ``[tile_begins[U] * B * 128]``.
        tile_begins: int32 ``[U + 1]``, planes of the tiles before each.
        steps: int8 ``[1 + P, V]``, row 0 is ``c0``, row 1 + p is ``d_p``; 0 in padding.
        scale: float32 ``[V]``, S; 0 in padding.
        bias: float32 ``[V]``; 0 in padding.
        row_sums: int32 ``[2, V]``, sums over the row's real columns of w and of ``w << e``.
        output_rows: int32 ``[V]``, the output channel of a row; -1 in padding.
        plane_rows: int32 ``[P]``, as in the canonical form; kernels do not read it.
        columns: K.
        taps: kernel height times width; 1 for a linear layer.
        group: G.
    """

    words: Int32
    tile_begins: Int32
    steps: Int8
    scale: Float32
    bias: Float32
    row_sums: Int32
    output_rows: Int32
    plane_rows: Int32
    columns: int
    taps: int
    group: int

    @property
    def blocks(self) -> int:
        """B."""
        return column_blocks(self.columns, self.taps)


def column_blocks(columns: int, taps: int) -> int:
    """B: how many blocks of 128 hold a row whose taps are padded to whole sixteens."""
    return -(-taps * _padded_channels(columns, taps) // BLOCK_COLUMNS)


def to_kernel_layout(layer: PackedLayer) -> KernelLayer:
    """Bring a layer to the kernels' order.

    Args:
        layer: a layer that passes :func:`~.integer_reference.check_layer`.
    """
    packed, conv = layer.weight, layer.conv
    taps = 1 if conv is None else conv.kernel_shape[0] * conv.kernel_shape[1]
    group = 1 if conv is None else conv.group
    places = _padded_places(packed.rows, group)
    matrix = unpack(packed)
    weights = matrix.integers().astype(np.int32)
    powers = column_factors(np.int32(1) << layer.input_shift.astype(np.int32), conv, packed.rows)
    sums = np.stack([weights.sum(axis=1), (weights * powers).sum(axis=1)]).astype(np.int32)
    order = packed.row_order
    codes = _padded_codes(matrix.codes[order], places, taps)
    planes = _tile_planes(packed, places)
    blocks = codes.shape[1] // BLOCK_COLUMNS
    words = [
        _encode(_selectors(codes[TILE_ROWS * first : TILE_ROWS * last], blocks), count)
        for first, last, count in _runs(planes)
    ]
    return KernelLayer(
        words=np.concatenate([part.reshape(-1) for part in words]),
        tile_begins=np.concatenate([[0], np.cumsum(planes)]).astype(np.int32),
        steps=_spread(packed.steps, places, 0),
        scale=_spread(packed.scale, places, 0),
        bias=_spread(layer.bias[order], places, 0),
        row_sums=_spread(sums[:, order], places, 0),
        output_rows=_spread(order, places, -1),
        plane_rows=packed.plane_rows,
        columns=packed.columns,
        taps=taps,
        group=group,
    )


def from_kernel_layout(kernel: KernelLayer) -> PackedMatrix:
    """The canonical matrix, bit for bit what :func:`to_kernel_layout` was given."""
    places = np.flatnonzero(kernel.output_rows >= 0)
    begins, blocks = kernel.tile_begins, kernel.blocks
    tiles = []
    for first, last, count in _runs(np.diff(begins)):
        part = kernel.words[begins[first] * blocks * 128 : begins[last] * blocks * 128]
        shape = (last - first, blocks, 2, count, _LANES, 2)
        tiles.append(_codes(_decode(part.reshape(shape), count)))
    codes = _without_padding(np.concatenate(tiles)[places], kernel.columns, kernel.taps)
    padded = np.zeros((len(codes), -(-kernel.columns // WORD_BITS) * WORD_BITS), np.uint8)
    stored = []
    for plane, rows in enumerate(kernel.plane_rows):
        padded[:, : kernel.columns] = (codes >> plane) & 1
        stored.append(np.packbits(padded[:rows], axis=1, bitorder="little").view("<i4"))
    return PackedMatrix(
        planes=np.concatenate(stored).astype(np.int32, copy=False),
        plane_rows=kernel.plane_rows,
        steps=np.ascontiguousarray(kernel.steps[:, places]),
        scale=kernel.scale[places],
        row_order=kernel.output_rows[places],
        columns=kernel.columns,
    )


# --- rows and columns ---------------------------------------------------------------------------


def _padded_channels(columns: int, taps: int) -> int:
    channels = columns // taps
    return -(-channels // CHANNEL_ALIGNMENT) * CHANNEL_ALIGNMENT


def _padded_places(rows: int, group: int) -> NDArray[np.intp]:
    """Where sorted row j lies among the padded rows; every group begins with a tile of its own."""
    per_group = rows // group
    padded = -(-per_group // TILE_ROWS) * TILE_ROWS
    return (np.arange(group)[:, None] * padded + np.arange(per_group)).reshape(-1)


def _padded_rows(places: NDArray[np.intp]) -> int:
    return -(-(int(places[-1]) + 1) // TILE_ROWS) * TILE_ROWS


def _spread(values: NDArray[Value], places: NDArray[np.intp], padding: int) -> NDArray[Value]:
    spread = np.full((*values.shape[:-1], _padded_rows(places)), padding, values.dtype)
    spread[..., places] = values
    return spread


def _tile_planes(packed: PackedMatrix, places: NDArray[np.intp]) -> NDArray[np.int64]:
    """Planes of each tile, int64 ``[U]``: those of its first row, which has the most."""
    counts = (np.arange(packed.rows)[:, None] < packed.plane_rows[None, :]).sum(axis=1)
    return _spread(counts.astype(np.int64), places, 0)[::TILE_ROWS]


def _padded_codes(codes: Uint8, places: NDArray[np.intp], taps: int) -> Uint8:
    """Codes of sorted rows, uint8 ``[O, K]`` to ``[V, 128 B]``."""
    rows, columns = codes.shape
    channels = columns // taps
    by_tap = np.zeros((_padded_rows(places), taps, _padded_channels(columns, taps)), np.uint8)
    by_tap[places, :, :channels] = codes.reshape(rows, taps, channels)
    padded = np.zeros((len(by_tap), column_blocks(columns, taps) * BLOCK_COLUMNS), np.uint8)
    flat = by_tap.reshape(len(by_tap), -1)
    padded[:, : flat.shape[1]] = flat
    return padded


def _without_padding(codes: Uint8, columns: int, taps: int) -> Uint8:
    channels = _padded_channels(columns, taps)
    by_tap = codes[:, : taps * channels].reshape(len(codes), taps, channels)
    return by_tap[:, :, : columns // taps].reshape(len(codes), columns)


def _runs(planes: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Runs of tiles with equal plane counts: first, last (exclusive), planes."""
    borders = np.flatnonzero(np.diff(planes)) + 1
    for first, last in zip([0, *borders], [*borders, len(planes)], strict=True):
        yield int(first), int(last), int(planes[first])


# --- the order of bits --------------------------------------------------------------------------
# Row 16 f + 8 e + g and column 64 h + 16 t + 4 q + i of a tile's block belong to lane 4 g + q,
# which reads their code in nibble 4 e + i of its selector word t of fragment f and half h.


def _selectors(codes: Uint8, blocks: int) -> Uint8:
    """Codes ``[32 tiles, 128 B]`` to ``[tiles, B, lane, f, h, t, nibble]``."""
    axes = codes.reshape(-1, 2, 2, 8, blocks, 2, _QUARTERS, 4, 4)  # tile f e g block h t q i
    moved = axes.transpose(0, 4, 3, 7, 1, 5, 6, 2, 8)  # tile block g q f h t e i
    return moved.reshape(-1, blocks, _LANES, 2, 2, _QUARTERS, _NIBBLES)


def _codes(selectors: Uint8) -> Uint8:
    """The inverse of :func:`_selectors`."""
    tiles, blocks = selectors.shape[:2]
    axes = selectors.reshape(tiles, blocks, 8, 4, 2, 2, _QUARTERS, 2, 4)
    return axes.transpose(0, 4, 7, 2, 1, 5, 6, 3, 8).reshape(tiles * TILE_ROWS, -1)


def _plane_groups(planes: int) -> Iterator[tuple[int, int]]:
    """First plane and number of planes of each group: four at a time."""
    for first in range(0, planes, _GROUP_PLANES):
        yield first, min(_GROUP_PLANES, planes - first)


def _encode(selectors: Uint8, planes: int) -> Int32:
    """Selectors to words, int32 ``[tiles, B, h, P, lane, f]``: a group of n planes has n words."""
    words = []
    for first, count in _plane_groups(planes):
        code = (selectors >> first) & (2**count - 1)
        part = [code[..., quarter, :] for quarter in range(_QUARTERS)]
        if count == 4:  # the fourth bit is stored inverted: a set one blanks a byte of prmt
            nibbles = [quarter ^ 8 for quarter in part]
        elif count == 3:  # the fourth quarter lies in what the other three leave free
            nibbles = [part[bit] | ((part[3] >> bit) & 1) << 3 for bit in range(3)]
        elif count == 2:
            nibbles = [part[0] | part[1] << 2, part[2] | part[3] << 2]
        else:
            nibbles = [part[0] | part[1] << 1 | part[2] << 2 | part[3] << 3]
        words += [_joined(word) for word in nibbles]
    return np.moveaxis(np.stack(words, axis=2), -1, 2)


def _decode(words: Int32, planes: int) -> Uint8:
    """The inverse of :func:`_encode`."""
    words = np.moveaxis(words, 2, -1)
    selectors = np.zeros((*words.shape[:2], _LANES, 2, 2, _QUARTERS, _NIBBLES), np.uint8)
    for first, count in _plane_groups(planes):
        nibbles = [_split(words[:, :, first + index]) for index in range(count)]
        if count == 4:
            part = [word ^ 8 for word in nibbles]
        elif count == 3:
            last = (nibbles[0] >> 3) | (nibbles[1] >> 3) << 1 | (nibbles[2] >> 3) << 2
            part = [*(word & 7 for word in nibbles), last]
        elif count == 2:
            part = [nibbles[0] & 3, nibbles[0] >> 2, nibbles[1] & 3, nibbles[1] >> 2]
        else:
            part = [(nibbles[0] >> quarter) & 1 for quarter in range(_QUARTERS)]
        selectors |= np.stack(part, axis=-2) << first
    return selectors


def _joined(nibbles: Uint8) -> Int32:
    """Eight nibbles, the lowest first, to one word."""
    pairs = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return np.ascontiguousarray(pairs).view("<i4")[..., 0].astype(np.int32, copy=False)


def _split(words: Int32) -> Uint8:
    """The inverse of :func:`_joined`."""
    pairs = np.ascontiguousarray(words).astype("<i4", copy=False)[..., None].view(np.uint8)
    return np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*words.shape, _NIBBLES)
