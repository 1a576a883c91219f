"""Random layers and inputs that reach every path of the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, run_layer

from .emulated import EmulatedGpu, output_shape


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

    @property
    def expected(self) -> NDArray[np.floating]:
        """y, the residual added in float32 to y as its type holds it, and rounded again."""
        y = self.case.y
        if self.residual is None:
            return y
        with np.errstate(over="ignore"):
            wide = y.astype(np.float32) + self.residual.astype(np.float32)
            return wide.astype(y.dtype)

    def found(self, gpu: EmulatedGpu) -> NDArray[np.floating]:
        """What the kernels make of it."""
        gpu = EmulatedGpu(gpu.library, self.multiprocessors)
        case = self.case
        return gpu.run(case.layer, case.x, case.step_index, self.residual, self.seed, self.y_begin)

    def holds(self, gpu: EmulatedGpu) -> bool:
        """Whether the kernels give exactly what is expected."""
        return np.array_equal(self.found(gpu), self.expected, equal_nan=True)


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
        residual = draws.bell(output_shape(layer, shape)).astype(dtype)
    multiprocessors = path.multiprocessors or any_of(2, 8, 20)
    return KernelCase(case, multiprocessors, residual, index, y_begin=index // 6 % 3 % 2)


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
