"""How fast this machine does what an export does: a few short measurements, about two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..core.activation_quantizer import fit_table
from ..core.planes import pack
from ..core.weight_quantizer import quantize_weight
from ..methods.plan import LayerChoices
from ..training.calibration import PATCHES, SAMPLES_PER_STEP

_ROWS, _COLUMNS = 256, 1152
_VALUES = 1 << 21
_TABLE_STEPS = 8
_LEAST_SECONDS = 0.15


@dataclass(frozen=True)
class MachineSpeed:
    """Measured seconds per unit of work.

    Attributes:
        per_weight: of fitting and packing one weight, by how its layer is quantised.
        per_table_row: of fitting one row of an activation table.
        per_mac: of one multiplication and addition of a float32 product or convolution.
        per_moved: of one value of a normalisation or activation function.
        per_recorded: of one value that calibration describes.
    """

    per_weight: Mapping[LayerChoices, float]
    per_table_row: float
    per_mac: float
    per_moved: float
    per_recorded: float


def measure_speed(choices: Collection[LayerChoices]) -> MachineSpeed:
    """Time samples of the real work: each kind of fit, and the float operators."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights, inputs = noise(_ROWS, _COLUMNS), noise(PATCHES, _COLUMNS)
    samples, importance = noise(_TABLE_STEPS, SAMPLES_PER_STEP), torch.ones(SAMPLES_PER_STEP)
    low, high = samples.amin(dim=1), samples.amax(dim=1)
    tokens, matrix = noise(1024, 640), noise(640, 640)
    image, kernel = noise(1, 256, 32, 32), noise(256, 256, 3, 3)
    values = noise(1, 32, _VALUES // 32)

    def fit(kind: LayerChoices) -> float:
        return _seconds(
            lambda: pack(
                quantize_weight(
                    weights, kind.bits.weight, kind.weight_form, kind.allocation, inputs
                )
            )
        )

    with torch.no_grad():
        product = _seconds(lambda: tokens @ matrix) / (1024 * 640 * 640)
        convolution = _seconds(lambda: functional.conv2d(image, kernel, padding=1))
        return MachineSpeed(
            per_weight={kind: fit(kind) / weights.numel() for kind in dict.fromkeys(choices)},
            per_table_row=_seconds(lambda: fit_table(samples, importance, low, high, 8))
            / _TABLE_STEPS,
            per_mac=(product + convolution / (256 * 256 * 9 * 32 * 32)) / 2,
            per_moved=_seconds(lambda: functional.silu(functional.group_norm(values, 32)))
            / (2 * _VALUES),
            per_recorded=_seconds(lambda: values.aminmax(dim=1)) / _VALUES,
        )


def _seconds(work: Callable[[], object]) -> float:
    """Mean time of repeated runs, after one that warms up."""
    work()
    runs, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < _LEAST_SECONDS:
        work()
        runs += 1
    return passed / runs
