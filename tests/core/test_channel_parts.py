"""Layers that are sums of parts: what is no such sum, and what the parts of one compute."""

from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch
from torch import nn

from mpq_export.core.channel_parts import check_parts, parts_by_module
from mpq_export.core.layers import ChannelSum, install_layers, part_of, part_weights, weight_matrix
from mpq_export.core.planes import ContractError


def int32(*values):
    return np.array(values, np.int32)


@pytest.fixture
def parts():
    layers = {f"m.{i}": fixtures.random_layer([2, 2], 3, 4, seed=i) for i in range(2)}
    return layers, {"m.0": int32(0, 2, 5), "m.1": int32(1, 3, 4)}


def test_two_parts_share_the_channels(parts):
    layers, channels = parts
    check_parts(layers, channels)
    assert parts_by_module(channels) == {"m": ["m.0", "m.1"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m.1": int32(1, 3, 5)}, "share the channels"),
        ({"m.1": int32(1, 4, 3)}, "ascend"),
        ({"m.1": int32(1, 3)}, "not int32"),
        ({"m.1": np.array([1, 3, 4])}, "not int32"),
        ({"m.1": int32(-1, 3, 4)}, "share the channels"),
        ({"m.1": None}, "numbered"),
    ],
)
def test_what_shares_nothing_out_is_refused(parts, changes, message):
    layers, channels = parts
    wrong = {name: own for name, own in (channels | changes).items() if own is not None}
    with pytest.raises(ContractError, match=message):
        check_parts(layers, wrong)


def test_parts_of_different_kinds_or_out_of_order_are_refused(parts):
    layers, channels = parts
    with pytest.raises(ContractError, match="numbered"):
        check_parts(dict(reversed(layers.items())), channels)
    with pytest.raises(ContractError, match="is a layer and has parts"):
        check_parts(layers | {"m": layers["m.0"]}, channels)
    other = fixtures.random_layer([2, 2, 2], 3, 4)
    with pytest.raises(ContractError, match="different kinds"):
        check_parts(layers | {"m.1": other}, channels)


@pytest.mark.parametrize(
    "module",
    [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 1, bias=False)],
    ids=["linear", "conv", "no bias"],
)
@pytest.mark.parametrize("channels", [[[0, 1], [2, 3, 4, 5]], [[0, 5], [1, 3], [2, 4]]])
def test_full_precision_parts_add_up_to_the_layer(module, channels):
    x = torch.randn(2, 5, 6) if isinstance(module, nn.Linear) else torch.randn(2, 6, 5, 5)
    own = [int32(*part) for part in channels]
    made = [part_of(module, part, has_bias=place == 0) for place, part in enumerate(own)]
    total = ChannelSum(made, own, isinstance(module, nn.Conv2d))
    torch.testing.assert_close(total(x), module(x), atol=1e-5, rtol=1e-5)
    weights = weight_matrix(module)
    for part, layer in zip(own, made, strict=True):
        taps = weights.shape[1] // 6
        torch.testing.assert_close(part_weights(weights, taps, part), weight_matrix(layer))
    assert module.weight.shape[1] == 6


def test_layers_and_sums_are_put_in_place(parts):
    layers, channels = parts
    model = nn.ModuleDict({"m": nn.Linear(6, 2), "n": nn.Linear(3, 2)})
    everything = {"n": replace(layers["m.0"]), **layers}
    install_layers(model, everything, channels, lambda name, layer: nn.Linear(3, 2).eval())
    assert isinstance(model["m"], ChannelSum)
    assert isinstance(model["n"], nn.Linear)
    assert model.get_submodule("m.1").in_features == 3
