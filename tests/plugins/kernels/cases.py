"""Random layers and inputs that reach every path of the kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import product

import numpy as np
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer, run_layer
from mpq_export.core.kernel_layout import to_kernel_layout
from mpq_export.errors import UserError

from .emulated import EmulatedGpu
from .prepared import Gpu, prepare


@dataclass(frozen=True)
class _Path:
    """What decides how the kernels cut their work; no multiprocessors: any number."""

    many: bool  # pixels
    multiprocessors: int | None
    rows: tuple[int, ...] = (1, 9, 47, 130)
    long: bool = False  # rows of many columns


_PATHS = (
    _Path(many=False, multiprocessors=132, long=True),
    _Path(many=False, multiprocessors=None),
    _Path(many=True, multiprocessors=1, rows=(100, 120, 128, 250)),
    _Path(many=True, multiprocessors=1, rows=(33, 64, 140, 190)),
    _Path(many=True, multiprocessors=132, long=True),
    _Path(many=True, multiprocessors=None),
)


@dataclass(frozen=True)
class KernelCase:
    """A layer case, the GPU it runs on, what is added to its output and where y begins."""

    case: LayerCase
    multiprocessors: int
    residual: NDArray[np.floating] | None
    seed: int
    y_begin: int = 0  # elements into its buffer
    again: bool = False  # what is looked at is a second multiply's
    channels_last: bool = False  # in memory; a convolution's alone

    @property
    def expected(self) -> NDArray[np.floating]:
        """y, the residual added in float32 to y as its type holds it, and rounded again."""
        y = self.case.y
        if self.residual is None:
            return y
        with np.errstate(over="ignore"):
            wide = y.astype(np.float32) + self.residual.astype(np.float32)
            return wide.astype(y.dtype)

    def found(self, gpu: Gpu) -> NDArray[np.floating]:
        """What the kernels make of it."""
        gpu.shuffle(self.seed)
        device, case = gpu.device.of_size(self.multiprocessors), self.case
        prepared = prepare(
            device, case.layer, case.x, case.step_index, self.residual, self.channels_last
        )
        prepared.quantize()
        if self.again:
            prepared.multiply()
        y = prepared.multiply(self.y_begin)
        return np.ascontiguousarray(np.moveaxis(y, -1, 1)) if self.channels_last else y

    def holds(self, gpu: Gpu) -> bool:
        """Whether the kernels give exactly what is expected."""
        try:
            return same_bits(self.found(gpu), self.expected)
        except UserError:  # they, or the GPU, did not take the call
            return False


@dataclass(frozen=True)
class Launched:
    """What a case took.

    Attributes:
        kernel: its name, with pixels and tiles of a thread block.
        planes: P of a tile that it ran.
        wrapped: whether a warp went on to a stage, or to words, that it had used before.
        split: whether several thread blocks shared an output.
    """

    kernel: str
    planes: int
    wrapped: bool
    split: bool


_STAGES, _SMALL_WARPS = 3, 8


def launched(gpu: EmulatedGpu, layer: PackedLayer) -> set[Launched]:
    """What the last launch was, which was of this layer: for every plane count of its tiles."""
    launch = (ctypes.c_uint32 * 5)()
    gpu.functions.mpq_emulation_last_launch(ctypes.byref(launch))
    x_blocks, y_blocks, z_blocks, threads, shared = launch
    group, kernel = 1 if layer.conv is None else layer.conv.group, to_kernel_layout(layer)
    begins = kernel.tile_begins
    tiles, planes = (len(begins) - 1) // group, np.diff(begins).tolist()
    taps = 1 if layer.conv is None else int(np.prod(layer.conv.kernel_shape))
    blocks = -(-taps * -(-layer.input_channels // group // 16) * 16 // 128)
    if threads == 32 * _SMALL_WARPS:
        name, splits, turns = f"small<{shared // (threads * 4)}>", y_blocks, _SMALL_WARPS
    else:
        pixels = shared // (_STAGES * 128)
        # Two tiles are one thread block of either shape; four at a time would leave half idle.
        fours = pixels == 64 or (tiles > 2 and x_blocks == -(-tiles // 4))
        name, splits, turns = f"gemm<{pixels}, {4 if fours else 2}>", z_blocks // group, _STAGES
    return {Launched(name, count, blocks // splits > turns, splits > 1) for count in planes}


def _plane_case(planes: int, rows: int, pixels: int, multiprocessors: int) -> KernelCase:
    """All rows of so many planes, and nine blocks of columns: a ring of three stages, or of the
    eight warps of the path for few pixels, begins again.
    """
    draws = Draws(100 * planes + rows)
    layer = random_layer(draws, [planes] * rows, 6, 1100)
    x = draws.bell((pixels, 1100)).astype(np.float32)
    case = LayerCase(f"{planes}_planes", layer, x, 1, run_layer(layer, x, 1))
    return KernelCase(case, multiprocessors, None, pixels)


def plane_cases(planes: int) -> list[KernelCase]:
    """What takes every kernel there is for layers of so many planes."""
    uses = ((8, 1), (16, 1), (32, 1), (40, 1), (40, 132), (130, 1))
    return [_plane_case(planes, rows, *use) for rows, use in product((65, 128), uses)]


def same_bits(found: NDArray[np.floating], expected: NDArray[np.floating]) -> bool:
    """Whether outputs are the same, zeros' signs included; one NaN is like another."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    bits = f"u{expected.itemsize}"
    number = ~np.isnan(expected)
    same = np.array_equal(np.isnan(found), ~number)
    return same and np.array_equal(found[number].view(bits), expected[number].view(bits))


def assert_same_bits(found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    """As :func:`same_bits`, and say where they differ."""
    if not same_bits(found, expected):
        np.testing.assert_array_equal(found, expected, strict=True)
        signs = np.argwhere(np.signbit(found) != np.signbit(expected)).tolist()
        raise AssertionError(f"zeros of the other sign at {signs[:10]}")


def golden(case: LayerCase) -> KernelCase:
    """A golden case as it is."""
    return KernelCase(case, 16, None, 0)


def random_case(index: int) -> KernelCase:
    """Case ``index``: its number says roughly which path it takes, all else is drawn."""
    draws = Draws(7000 + index)

    def any_of(*values):
        return values[int(draws.integers(0, len(values) - 1))]

    path, kind = _PATHS[index % len(_PATHS)], index // len(_PATHS)
    conv = None if kind % 2 == 0 else _geometry(draws, grouped=kind % 6 == 5)
    group = 1 if conv is None else conv.group
    rows = group * (any_of(1, 5, 33) if group > 1 else path.rows[int(draws.integers(0, 3))])
    channels = group * any_of(3, 16, 33, 64, 300 if path.long else 130)
    if conv is None:
        channels = any_of(2100, 2600) if path.long else any_of(17, 128, 129, 300, 640)
    top = any_of(3, 5, 5 if path.multiprocessors == 1 else 8)
    planes = [int(draws.integers(1, top))] * rows
    if group == 1:
        planes = draws.integers(max(1, top - 2), top, rows).tolist()
    act_bits = any_of(2, 4, 6, 7, 8)
    layer = random_layer(
        draws, planes, act_bits, channels, conv, top_shift=any_of(0, 8 - act_bits),
        factors=bool(draws.integers(0, 1)),
    )  # fmt: skip
    if conv is None:
        pixels = any_of(33, 64, 70, 150) if path.many else any_of(1, 7, 9, 16, 30)
        shape: tuple[int, ...] = (pixels, channels)
    else:
        sides = (any_of(7, 12), any_of(8, 13)) if path.many else (any_of(3, 5), any_of(2, 4))
        shape = (any_of(1, 2), channels, *sides)
    dtype = any_of(np.float32, np.float16)
    x = draws.bell(shape).astype(dtype)
    step_index = int(draws.integers(0, 2))
    case = LayerCase(f"random_{index}", layer, x, step_index, run_layer(layer, x, step_index))
    residual = None
    if any_of(False, True):
        residual = draws.bell(case.y.shape).astype(dtype)
    multiprocessors = path.multiprocessors or any_of(2, 8, 20)
    return KernelCase(
        case, multiprocessors, residual, index, y_begin=index // 6 % 3 % 2, again=index % 4 == 0,
        channels_last=conv is not None and index // 12 % 2 == 1,
    )  # fmt: skip


def _geometry(draws: Draws, grouped: bool) -> ConvGeometry:
    def any_of(*values: int) -> int:
        return values[int(draws.integers(0, len(values) - 1))]

    kernel = (any_of(1, 2, 3), any_of(1, 3))
    # Narrow inputs must still have an output.
    top, left, bottom, right = (int(pad) for pad in draws.integers(1, 3, 4))
    return ConvGeometry(
        kernel, (any_of(1, 2), any_of(1, 1, 2)), (top, left + 1, bottom, right),
        (any_of(1, 2), any_of(1, 2)), any_of(2, 3) if grouped else 1,
    )  # fmt: skip
