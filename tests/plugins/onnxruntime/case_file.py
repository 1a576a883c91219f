"""Layer cases in one binary file, for the C++ tests; ``plugins/onnxruntime/tests/case_file.h`` says
how it is laid out.

    python -m plugins.onnxruntime.case_file FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import pack

import numpy as np
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_cases
from lowering.models import residual_shapes
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, add_residual, run_layer

# Output rows of whole sixteens and channels in sixty-fours; the first is cut into several pieces.
_DIRECT = (
    ((2, 64, 5, 32), 70, ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))),
    ((1, 128, 6, 16), 34, ConvGeometry((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 2)),
    ((1, 64, 3, 18), 33, ConvGeometry((1, 3), (2, 1), (1, 0, 0, 0))),
    ((3, 192, 1, 16), 9, ConvGeometry((1, 1))),
)


def write_cases(path: Path, cases: Iterable[LayerCase]) -> None:
    """Write the cases, each as it is and with a residual; float16 inputs are widened, outputs are
    those in float32."""
    written = [
        b"".join(map(_padded, _parts(case, residual)))
        for index, case in enumerate(cases)
        for residual in (None, _residual(case, index))
    ]
    path.write_bytes(b"MPQCASES" + pack("<q", len(written)) + b"".join(written))


def all_cases() -> Iterator[LayerCase]:
    """The golden cases, those read without unfolding, and random ones larger than any tile."""
    yield from layer_cases()
    for index, (shape, rows, conv) in enumerate(_DIRECT):
        draws = Draws(500 + index)
        layer = random_layer(draws, [3] * rows, 6, shape[1], conv, top_shift=2, factors=True)
        x = draws.bell(shape).astype(np.float32)
        yield LayerCase(f"direct_{index}", layer, x, 1, run_layer(layer, x, 1))
    for index in range(24):
        yield _random_case(index)


def _residual(case: LayerCase, index: int) -> NDArray[np.float32]:
    """What is added to a case's output, in all forms by turns."""
    forms = residual_shapes(case.expected.output.shape, case.layer.conv is not None)
    return Draws(2000 + index).bell(forms[index % len(forms)]).astype(np.float32)


def _random_case(index: int) -> LayerCase:
    draws = Draws(1000 + index)

    def any_of(*values: int) -> int:
        return values[int(draws.integers(0, len(values) - 1))]

    conv = None
    if index % 3:
        pads = tuple(int(pad) for pad in draws.integers(0, 2, 4))
        conv = ConvGeometry(
            (any_of(1, 2, 3), any_of(1, 3)), (any_of(1, 2), any_of(1, 2, 3)), pads,
            (any_of(1, 2), any_of(1, 2)), any_of(1, 1, 2, 4),
        )  # fmt: skip
    group = 1 if conv is None else conv.group
    channels, rows = group * any_of(3, 16, 33, 64), group * any_of(1, 9, 17, 40)
    planes = [any_of(1, 3, 8)] * rows if group > 1 else draws.integers(1, 8, rows).tolist()
    act_bits = any_of(2, 4, 6, 8)
    layer = random_layer(
        draws, planes, act_bits, channels, conv, top_shift=any_of(0, 8 - act_bits),
        factors=bool(index % 2),
    )  # fmt: skip
    shape = (any_of(1, 5, 37), channels)
    if conv is not None:
        shape = (any_of(1, 2), channels, any_of(6, 13), any_of(6, 19))
    x = draws.bell(shape).astype(np.float32)
    step_index = int(draws.integers(0, 2))
    return LayerCase(f"random_{index}", layer, x, step_index, run_layer(layer, x, step_index))


def _parts(case: LayerCase, residual: NDArray[np.float32] | None) -> Iterator[bytes]:
    layer, weight = case.layer, case.layer.weight
    conv = layer.conv or ConvGeometry((1, 1))
    geometry = (
        *conv.kernel_shape, *conv.strides, *conv.pads, *conv.dilations, conv.group,
    )  # fmt: skip
    name = case.name.encode()
    yield pack("<q", len(name))
    yield name
    yield pack("<q", layer.conv is not None)
    yield pack("<11q", *geometry)
    yield pack("<3q", layer.act_bits, weight.columns, case.step_index)
    for array, dtype in (
        (weight.plane_rows, "<i8"),
        (layer.act_scale, "<f4"),
        (layer.act_zero_point, "<i4"),
        (weight.planes, "<i4"),
        (weight.steps, "i1"),
        (weight.scale, "<f4"),
        (weight.row_order, "<i4"),
        (layer.bias, "<f4"),
        (layer.input_factor, "<f4"),
        (layer.input_shift, "i1"),
        (case.x, "<f4"),
        (np.zeros(0) if residual is None else residual, "<f4"),
        (add_residual(case.expected.output, residual), "<f4"),
    ):
        yield from _array(array, dtype)


def _array(array: NDArray, dtype: str) -> Iterator[bytes]:
    yield pack(f"<{1 + array.ndim}q", array.ndim, *array.shape)
    yield np.ascontiguousarray(array, dtype).tobytes()


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 8)


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]), all_cases())
