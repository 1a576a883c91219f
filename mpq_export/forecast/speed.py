"""How fast this machine does what an export does: a few short measurements, about two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from ..core.activation_quantizer import fit_table
from ..core.bit_allocation import Allocation
from ..core.integer_reference import PackedLayer
from ..core.planes import pack
from ..core.trained_layer import BatchEntries, TrainedLayer
from ..core.weight_form import WeightForm
from ..core.weight_quantizer import quantize_weight
from ..methods.plan import LayerChoices
from ..training.calibration import PATCHES, SAMPLES_PER_STEP

_NARROW, _WIDE = (256, 256), (48, 4096)
"""Rows and columns of two matrices whose times tell the cost of a row from that of a weight."""
_TRAINED, _TOKENS = (256, 640), (8, 1024)
"""A matrix under training, and how many rows it meets."""
_PRODUCTS = 3
"""Of a layer's update: its output, the gradient of its input and that of its weight."""
_VALUES = 1 << 21
_TABLE_STEPS = 8
_LEAST_SECONDS = 0.15


@dataclass(frozen=True)
class FitSpeed:
    """Seconds of fitting and packing: a row's search costs nearly the same however long it is,
    sorting and packing cost by the weight."""

    per_row: float
    per_weight: float

    def seconds(self, weights: int, rows: int) -> float:
        """Of a layer of that many weights in that many rows."""
        return rows * self.per_row + weights * self.per_weight


@dataclass(frozen=True)
class MachineSpeed:
    """Measured seconds per unit of work.

    Attributes:
        fits: of fitting, by how a layer is quantised.
        per_table_row: of fitting one row of an activation table.
        per_mac: of one multiplication and addition of a float32 product or convolution.
        per_moved: of one value of a normalisation or activation function.
        per_recorded: of one value that calibration describes.
    """

    fits: Mapping[LayerChoices, FitSpeed]
    per_table_row: float
    per_mac: float
    per_moved: float
    per_recorded: float


def measure_speed(choices: Collection[LayerChoices]) -> MachineSpeed:
    """Time samples of the real work: each kind of fit, and the float operators."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    matrices = [(noise(*shape), noise(PATCHES, shape[1])) for shape in (_NARROW, _WIDE)]
    samples, importance = noise(_TABLE_STEPS, SAMPLES_PER_STEP), torch.ones(SAMPLES_PER_STEP)
    low, high = samples.amin(dim=1), samples.amax(dim=1)
    tokens, matrix = noise(1024, 640), noise(640, 640)
    image, kernel = noise(1, 256, 32, 32), noise(256, 256, 3, 3)
    values = noise(1, 32, _VALUES // 32)

    def fit(kind: LayerChoices) -> FitSpeed:
        narrow, wide = (
            _seconds(partial(_quantize, weights, inputs, kind)) / len(weights)
            for weights, inputs in matrices
        )
        per_weight = max(0.0, (wide - narrow) / (_WIDE[1] - _NARROW[1]))
        return FitSpeed(max(0.0, narrow - per_weight * _NARROW[1]), per_weight)

    with torch.no_grad():
        product = _seconds(lambda: tokens @ matrix) / (1024 * 640 * 640)
        convolution = _seconds(lambda: functional.conv2d(image, kernel, padding=1))
        return MachineSpeed(
            fits={kind: fit(kind) for kind in dict.fromkeys(choices)},
            per_table_row=_seconds(lambda: fit_table(samples, importance, low, high, 8))
            / _TABLE_STEPS,
            per_mac=(product + convolution / (256 * 256 * 9 * 32 * 32)) / 2,
            per_moved=_seconds(lambda: functional.silu(functional.group_norm(values, 32)))
            / (2 * _VALUES),
            per_recorded=_seconds(lambda: values.aminmax(dim=1)) / _VALUES,
        )


@dataclass(frozen=True)
class TrainingSpeed:
    """Measured seconds of an update beside its float operators: ``per_weight`` of rounding a
    weight, its gradient and the optimiser's step, ``per_input`` of a value that enters a trained
    layer."""

    per_weight: float
    per_input: float


def measure_training(speed: MachineSpeed) -> TrainingSpeed:
    """Time updates of one layer with few and with many inputs, and take its products off."""
    rows, columns = _TRAINED
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_TRAINED, generator=generator)
    matrix = quantize_weight(weight, 4, WeightForm.UNIFORM, Allocation.EQUAL, None)
    start = PackedLayer(
        weight=pack(matrix),
        bias=np.zeros(rows, np.float32),
        act_scale=np.full(1, 0.25, np.float32),
        act_zero_point=np.full(1, 8, np.int32),
        act_bits=4,
        input_factor=np.ones(columns, np.float32),
        input_shift=np.zeros(columns, np.int8),
    )
    layer = TrainedLayer(start, weight, WeightForm.UNIFORM, 4, BatchEntries())
    optimizer = torch.optim.Adam(layer.parameters())

    def update(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
        layer.project()

    def seconds(tokens: int) -> float:
        x = torch.randn(1, tokens, columns, generator=generator, requires_grad=True)
        products = _PRODUCTS * tokens * weight.numel() * speed.per_mac
        return max(0.0, _seconds(lambda: update(x)) - products)

    few, many = (seconds(tokens) for tokens in _TOKENS)
    per_input = max(0.0, (many - few) / ((_TOKENS[1] - _TOKENS[0]) * columns))
    return TrainingSpeed(
        max(0.0, few - per_input * _TOKENS[0] * columns) / weight.numel(), per_input
    )


def _quantize(weights: torch.Tensor, inputs: torch.Tensor, kind: LayerChoices) -> None:
    pack(quantize_weight(weights, kind.bits.weight, kind.weight_form, kind.allocation, inputs))


def _seconds(work: Callable[[], object]) -> float:
    """Mean time of repeated runs, after one that warms up."""
    work()
    runs, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < _LEAST_SECONDS:
        work()
        runs += 1
    return passed / runs
