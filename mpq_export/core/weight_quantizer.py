"""Quantising a weight matrix: fit rows at several plane counts, then allocate."""

from __future__ import annotations

import numpy as np
import torch

from .bit_allocation import Allocation, by_error_gain, by_kurtosis
from .plane_fit import (
    FittedRows,
    SortedRows,
    chunks,
    fit_planes,
    fit_uniform,
    free_form,
    residual_form,
)
from .planes import PlaneMatrix, quantize_rows
from .weight_form import WeightForm


def quantize_weight(
    weights: torch.Tensor,
    bits: int,
    form: WeightForm,
    allocation: Allocation,
    inputs: torch.Tensor | None,
) -> PlaneMatrix:
    """Quantise a matrix at N bits; the mean plane count is exactly N.

    Args:
        weights: float32 ``[O, K]``, finite.
        bits: N, 2..8; 8 is uniform, symmetric and never mixed.
        form: how planes may step.
        allocation: which rows get N - 1, N, N + 1 planes.
        inputs: float32 ``[m, K]`` rows the matrix meets; a row's error is then that of its output.
            None measures the weights themselves.
    """
    mixed = bits < 8 and allocation is not Allocation.EQUAL
    candidates = range(bits - 1, bits + 2) if mixed else range(bits, bits + 1)
    parts: list[list[PlaneMatrix]] = [[] for _ in candidates]
    errors: list[list[np.ndarray]] = [[] for _ in candidates]
    for block in chunks(weights):
        rows = SortedRows.of(block)
        exact = block.double().numpy()
        for index, planes in enumerate(candidates):
            matrix = quantize_rows(exact, fit_rows(rows, planes, bits, form).levels)
            parts[index].append(matrix)
            if mixed:
                errors[index].append(row_errors(block, matrix, inputs))
    if not mixed:
        return _stacked(parts[0])
    by_planes = np.stack([np.concatenate(part) for part in errors])
    if allocation is Allocation.KURTOSIS:
        counts = by_kurtosis(weights.numpy(), by_planes, bits)
    else:
        counts = by_error_gain(by_planes, bits)
    return _select([_stacked(part) for part in parts], counts)


def fit_rows(rows: SortedRows, planes: int, bits: int, form: WeightForm) -> FittedRows:
    """Fit rows with ``planes`` planes in a layer at N = ``bits``."""
    if form is WeightForm.UNIFORM or bits == 8:
        return fit_uniform(rows, planes)
    if form is WeightForm.RESIDUAL:
        return fit_planes(rows, residual_form(planes, bits - 1))
    return fit_planes(rows, free_form(planes))


def row_errors(
    weights: torch.Tensor, matrix: PlaneMatrix, inputs: torch.Tensor | None
) -> np.ndarray:
    """Squared error of every row, float64 ``[O]``: of its outputs for ``inputs`` ``[m, K]``, or of
    its weights."""
    difference = weights - torch.from_numpy(matrix.weights())
    if inputs is not None:
        difference = inputs @ difference.T
        return difference.double().square().sum(dim=0).numpy()
    return difference.double().square().sum(dim=1).numpy()


def _stacked(parts: list[PlaneMatrix]) -> PlaneMatrix:
    return PlaneMatrix(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("offset", "steps", "codes", "plane_count", "scale")
        )
    )


def _select(candidates: list[PlaneMatrix], counts: np.ndarray) -> PlaneMatrix:
    """Row by row the candidate with the wanted plane count."""
    widest = max(candidate.steps.shape[1] for candidate in candidates)
    chosen = candidates[0]
    offset, codes, scale = chosen.offset.copy(), chosen.codes.copy(), chosen.scale.copy()
    steps = np.zeros((len(counts), widest), np.int8)
    for candidate in candidates:
        planes = candidate.steps.shape[1]
        here = counts == planes
        offset[here], codes[here] = candidate.offset[here], candidate.codes[here]
        scale[here], steps[here, :planes] = candidate.scale[here], candidate.steps[here]
    return PlaneMatrix(offset, steps[:, : counts.max()], codes, counts, scale)
