"""Rounding that is learned: it begins at the real weights and ends on levels of the contract."""

import numpy as np
import pytest
import torch
from torch import nn

from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.layers import geometry_of, weight_matrix
from mpq_export.core.learned_rounding import LearnedRounding, RoundedLayer
from mpq_export.core.planes import level_table, pack
from mpq_export.core.weight_form import WeightForm
from mpq_export.core.weight_quantizer import quantize_weight

FORMS = pytest.mark.parametrize("form", WeightForm)


def quantized(form, allocation=Allocation.KURTOSIS, bits=3):
    weights = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    return weights, quantize_weight(weights, bits, form, allocation, None)


@FORMS
def test_it_begins_at_the_real_weights(form):
    weights, start = quantized(form)
    rounding = LearnedRounding(weights, start)
    levels = start.scale[:, None] * level_table(start.offset, start.steps)
    low, high = (torch.from_numpy(f(axis=1, keepdims=True)) for f in (levels.min, levels.max))
    expected = weights.minimum(high).maximum(low)
    torch.testing.assert_close(rounding().detach(), expected, atol=2e-5, rtol=1e-5)


@FORMS
def test_undecided_it_rounds_to_the_nearest_level(form):
    weights, start = quantized(form)
    levels = start.scale[:, None, None] * level_table(start.offset, start.steps)[:, None, :]
    nearest = np.abs(levels - weights.numpy()[:, :, None]).min(axis=2)
    hard = LearnedRounding(weights, start).matrix().weights()
    np.testing.assert_allclose(np.abs(hard - weights.numpy()), nearest, atol=1e-5)


@FORMS
@pytest.mark.parametrize("allocation", [Allocation.EQUAL, Allocation.KURTOSIS])
def test_whatever_it_learned_is_a_neighbouring_level(form, allocation):
    weights, start = quantized(form, allocation)
    rounding = LearnedRounding(weights, start)
    with torch.no_grad():
        rounding.logit.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    matrix = rounding.matrix()
    pack(matrix)
    np.testing.assert_array_equal(matrix.weights(), rounding.hard().numpy())
    levels = np.sort(start.scale[:, None] * level_table(start.offset, start.steps), axis=1)
    between = [
        np.sum((row > min(w, q) + 1e-6) & (row < max(w, q) - 1e-6))
        for row, w_row, q_row in zip(levels, weights.numpy(), matrix.weights(), strict=True)
        for w, q in zip(np.clip(w_row, row[0], row[-1]), q_row, strict=True)
    ]
    assert max(between) == 0
    assert not np.array_equal(matrix.codes, start.codes)


def test_the_penalty_is_zero_where_all_is_decided():
    weights, start = quantized(WeightForm.UNIFORM)
    rounding = LearnedRounding(weights, start)
    assert rounding.penalty(2.0).item() > 10
    with torch.no_grad():
        rounding.logit.copy_(torch.where(rounding.logit > 0, 9.0, -9.0))
    assert rounding.penalty(2.0).item() == 0
    torch.testing.assert_close(rounding().detach(), rounding.hard())


def test_a_row_without_a_choice_stays():
    weights = torch.full((2, 8), 0.5)
    start = quantize_weight(weights, 3, WeightForm.UNIFORM, Allocation.EQUAL, None)
    rounding = LearnedRounding(weights, start)
    assert rounding.penalty(2.0).item() == 0
    np.testing.assert_array_equal(rounding.matrix().weights(), weights.numpy())


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(6, 4),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.Conv2d(6, 4, (2, 3), padding=(0, 1), groups=2, bias=False),
    ],
    ids=["linear", "conv", "groups"],
)
def test_a_layer_computes_with_weights_of_the_quantisers_space(module):
    weights = weight_matrix(module)
    factor = np.array([0.5, 2, 1, 4, 0.25, 1], np.float32)
    x = torch.randn(3, 6) if isinstance(module, nn.Linear) else torch.randn(3, 6, 7, 8)
    bias = torch.zeros(4) if module.bias is None else module.bias.detach()
    start = quantize_weight(weights, 8, WeightForm.UNIFORM, Allocation.EQUAL, None)
    layer = RoundedLayer(LearnedRounding(weights, start), factor, bias, geometry_of(module))
    scaled = x * torch.from_numpy(factor).view(-1 if x.dim() == 2 else (-1, 1, 1))
    layer.settle(weights)
    torch.testing.assert_close(layer(x), module(scaled).detach(), atol=1e-4, rtol=1e-4)
    assert layer.rounding is None
