"""Quantised layers in torch: the frozen form is the reference bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden.reader import LayerCase, layer_cases
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mpq_export.core.integer_reference import ConvGeometry, PackedLayer, check_layer, run_layer
from mpq_export.core.layers import (
    FrozenLayer,
    StepIndex,
    geometry_of,
    replace_module,
    unsupported_reason,
    weight_matrix,
)
from mpq_export.core.planes import PlaneMatrix, pack

from .strategies import inputs_for, layers, seeds


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden(case: LayerCase):
    frozen = FrozenLayer(case.layer, StepIndex(case.step_index))
    x = torch.from_numpy(case.x.copy())
    np.testing.assert_array_equal(frozen.codes(x).numpy(), case.expected.codes)
    y = frozen(x).numpy()
    assert y.dtype == case.x.dtype
    np.testing.assert_array_equal(y, case.y)


@given(layers(), seeds, st.sampled_from([np.float32, np.float16]))
def test_equals_the_reference(layer, seed, dtype):
    x = inputs_for(layer, seed).astype(dtype)
    step = StepIndex(seed % len(layer.act_scale))
    y = FrozenLayer(layer, step)(torch.from_numpy(x)).numpy()
    with np.errstate(over="ignore"):
        expected = run_layer(layer, x, step.value).output.astype(dtype)
    np.testing.assert_array_equal(y, expected)


def test_layers_share_one_step_index():
    case = next(case for case in layer_cases() if len(set(case.layer.act_scale)) == 3)
    step = StepIndex()
    frozen = [FrozenLayer(case.layer, step) for _ in range(2)]
    x = torch.from_numpy(case.x.copy())
    for index in range(3):
        step.value = index
        expected = run_layer(case.layer, case.x, index).output
        for layer in frozen:
            np.testing.assert_array_equal(layer(x).numpy(), expected)


def test_state_does_not_alias_the_packed_layer():
    """Training or moving a model must not change the bundle it came from."""
    case = layer_cases()[0]
    before = [array.copy() for array in (case.layer.bias, case.layer.act_scale)]
    frozen = FrozenLayer(case.layer, StepIndex())
    with torch.no_grad():
        for buffer in frozen.buffers():
            buffer.zero_()
    np.testing.assert_array_equal(case.layer.bias, before[0])
    np.testing.assert_array_equal(case.layer.act_scale, before[1])


def test_state_dict_restores_a_layer():
    cases = [case for case in layer_cases() if case.name in ("conv_3x3", "linear_p3_a4")]
    for case in cases:
        frozen = FrozenLayer(case.layer, StepIndex(case.step_index))
        empty = replace(case.layer, bias=np.zeros_like(case.layer.bias))
        other = FrozenLayer(empty, StepIndex(case.step_index))
        other.load_state_dict(frozen.state_dict())
        np.testing.assert_array_equal(other(torch.from_numpy(case.x.copy())).numpy(), case.y)


# --- modules to matrices ----------------------------------------------------------------------


def whole_layer(module: nn.Linear | nn.Conv2d) -> PackedLayer:
    """A layer at S = s = 1 whose weights and activations are the whole numbers themselves."""
    integers = weight_matrix(module).numpy().astype(np.int64)
    rows, channels = len(integers), module.weight.shape[1] * getattr(module, "groups", 1)
    above = integers + 127
    matrix = PlaneMatrix(
        offset=np.full(rows, -127, np.int8),
        steps=np.repeat(np.array([[1, 2, 4, 8, 16, 32, 64, 127]], np.int8), rows, axis=0),
        codes=np.where(above <= 127, above, above + 1).astype(np.uint8),
        plane_count=np.full(rows, 8),
        scale=np.ones(rows, np.float32),
    )
    np.testing.assert_array_equal(matrix.integers(), integers)
    bias = np.zeros(rows) if module.bias is None else module.bias.detach().numpy()
    layer = PackedLayer(
        weight=pack(matrix),
        bias=bias.astype(np.float32),
        act_scale=np.ones(1, np.float32),
        act_zero_point=np.array([100], np.int32),
        act_bits=8,
        input_factor=np.ones(channels, np.float32),
        input_shift=np.zeros(channels, np.int8),
        conv=geometry_of(module),
    )
    check_layer(layer)
    return layer


def of_whole_numbers(module: nn.Module) -> nn.Module:
    """The module with small whole weights and biases: its float sums are exact."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randint(-127, 128, parameter.shape, generator=generator)
            parameter.copy_(values.float())
    return module


_MODULES = {
    "linear": lambda: nn.Linear(13, 5),
    "linear without bias": lambda: nn.Linear(3, 4, bias=False),
    "conv": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "conv without bias": lambda: nn.Conv2d(3, 4, (3, 2), bias=False),
    "stride": lambda: nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(1, 0)),
    "dilation": lambda: nn.Conv2d(2, 3, (2, 3), dilation=(3, 2), padding=(2, 1)),
    "groups": lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "same": lambda: nn.Conv2d(2, 3, 3, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(2, 3, (4, 2), padding="same"),
    "same, dilated": lambda: nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(3, 2)),
    "valid": lambda: nn.Conv2d(2, 3, 3, padding="valid"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", _MODULES)
def test_module_and_its_packed_layer_are_one_function(name):
    """Whole numbers in: torch's own layer, the reference and the frozen form give the same."""
    module = of_whole_numbers(_MODULES[name]())
    shape = (4, 13 if name == "linear" else 3) if isinstance(module, nn.Linear) else None
    shape = shape or (2, module.in_channels, 7, 6)
    x = torch.randint(-100, 156, shape, generator=torch.Generator().manual_seed(1)).float()
    layer = whole_layer(module)
    expected = module.double()(x.double()).detach().numpy()
    np.testing.assert_array_equal(run_layer(layer, x.numpy(), 0).output, expected)
    np.testing.assert_array_equal(FrozenLayer(layer, StepIndex())(x).numpy(), expected)


def test_weight_matrix_is_ohwi_float32():
    conv = nn.Conv2d(2, 3, (2, 2)).half()
    matrix = weight_matrix(conv)
    assert matrix.dtype == torch.float32
    assert not matrix.requires_grad
    for o, i, h, w in np.ndindex(3, 2, 2, 2):
        assert matrix[o, (h * 2 + w) * 2 + i] == conv.weight[o, i, h, w]
    linear = nn.Linear(4, 2)
    assert torch.equal(weight_matrix(linear), linear.weight)


def test_geometry_of():
    assert geometry_of(nn.Linear(2, 2)) is None
    conv = nn.Conv2d(4, 2, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(1, 2), groups=2)
    assert geometry_of(conv) == ConvGeometry((3, 5), (2, 3), (1, 2, 1, 2), (1, 2), 2)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings_are_not_supported(mode):
    assert mode in unsupported_reason(nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode))
    assert unsupported_reason(nn.Conv2d(2, 2, 3, padding=1)) is None
    assert unsupported_reason(nn.Linear(2, 2)) is None


def test_replace_module():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(nn.ModuleDict({"a": inner}), nn.Linear(2, 2))
    replacement = nn.Identity()
    replace_module(model, "0.a.0", replacement)
    assert inner[0] is replacement
    replace_module(model, "1", replacement)
    assert model[1] is replacement
