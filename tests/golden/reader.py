"""Reading the golden cases, for the tests of every backend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpq_export.core.integer_reference import ConvGeometry, LayerTrace, PackedLayer
from mpq_export.core.planes import PackedMatrix, PlaneMatrix, SnappedLevels

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class LayerCase:
    """A layer, an input, and what must come out of it."""

    name: str
    layer: PackedLayer
    x: NDArray[np.floating]
    step_index: int
    expected: LayerTrace

    def __str__(self) -> str:
        return self.name

    @property
    def y(self) -> NDArray[np.floating]:
        """The expected output in the type of ``x``."""
        with np.errstate(over="ignore"):
            return self.expected.output.astype(self.x.dtype)


@dataclass(frozen=True)
class SnapCase:
    """Weights and real levels, the integers these snap to, and the rows quantised with them."""

    name: str
    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    steps: NDArray[np.float64]
    levels: SnappedLevels
    rows: PlaneMatrix

    def __str__(self) -> str:
        return self.name


def layer_cases() -> list[LayerCase]:
    """All layer cases by name; use with ``pytest.mark.parametrize(..., ids=str)``."""
    return [
        read_layer_case(path)
        for pattern in ("linear_*", "conv_*")
        for path in sorted(CASES.glob(f"{pattern}.safetensors"))
    ]


def layer_case(name: str) -> LayerCase:
    """One layer case."""
    return read_layer_case(CASES / f"{name}.safetensors")


def snap_cases() -> list[SnapCase]:
    """All snapping cases by name."""
    return [_read_snap_case(path) for path in sorted(CASES.glob("snap_*.safetensors"))]


@cache
def read_layer_case(path: Path) -> LayerCase:
    """The layer case in a file."""
    tensors, metadata = _read(path)
    conv = None
    if metadata["kind"] == "conv":
        lists = ("kernel_shape", "strides", "pads", "dilations")
        geometry = (tuple(map(int, metadata[name].split(","))) for name in lists)
        conv = ConvGeometry(*geometry, group=int(metadata["group"]))
    weight = PackedMatrix(
        tensors["planes"], tensors["plane_rows"], tensors["steps"], tensors["scale"],
        tensors["row_order"], int(metadata["K"]),
    )  # fmt: skip
    layer = PackedLayer(
        weight, tensors["bias"], tensors["act_scale"], tensors["act_zero_point"],
        int(metadata["act_bits"]), tensors["input_factor"], tensors["input_shift"], conv,
    )  # fmt: skip
    expected = LayerTrace(tensors["codes"], tensors["accumulator"], tensors["output"])
    return LayerCase(path.stem, layer, tensors["x"], int(tensors["step_index"][0]), expected)


def _read_snap_case(path: Path) -> SnapCase:
    tensors, _ = _read(path)
    rows, planes = tensors["row_steps"].shape
    return SnapCase(
        path.stem, tensors["weights"], tensors["offset"], tensors["steps"],
        SnappedLevels(tensors["levels_scale"], tensors["levels_offset"], tensors["levels_steps"]),
        PlaneMatrix(
            tensors["row_offset"], tensors["row_steps"], tensors["row_codes"],
            np.full(rows, planes, np.int64), tensors["row_scale"],
        ),
    )  # fmt: skip


def _read(path: Path) -> tuple[dict[str, NDArray], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
