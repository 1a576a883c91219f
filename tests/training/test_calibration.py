"""Input statistics along trajectories."""

import numpy as np
import torch
from torch import nn

from mpq_export.core.layers import weight_matrix
from mpq_export.training.calibration import PATCHES, record_inputs


def run(module, inputs, entries=None, calls=1):
    """Statistics of a module that is called ``calls`` times per step with the given inputs."""
    entries = list(range(len(inputs) // calls)) if entries is None else entries

    def trajectory():
        for step in range(len(entries)):
            for x in inputs[step * calls : (step + 1) * calls]:
                module(x)
            yield None

    return record_inputs({"layer": module}, trajectory(), entries, calls, seed=0)["layer"]


def test_ranges_are_per_step_and_channel():
    inputs = [torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    seen = run(nn.Conv2d(3, 2, 3, padding=1), inputs)
    for step, x in enumerate(inputs):
        assert torch.equal(seen.low[step], x.amin(dim=(0, 2, 3)))
        assert torch.equal(seen.high[step], x.amax(dim=(0, 2, 3)))
    expected = torch.stack(inputs).abs().amax(dim=(0, 1, 3, 4))
    assert torch.equal(seen.channel_range(), expected)


def test_samples_know_their_channel():
    channel_values = torch.arange(7.0).expand(5, 11, 7)
    seen = run(nn.Linear(7, 2), [channel_values, channel_values * 10])
    assert torch.equal(seen.samples[0], seen.sample_channels.float())
    assert torch.equal(seen.samples[1], seen.sample_channels.float() * 10)


def test_patches_meet_the_weight_matrix():
    """A patch times the weight matrix is an output of the convolution."""
    conv = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False)
    inputs = [torch.randn(2, 3, 9, 8) for _ in range(4)]
    outputs = torch.cat([conv(x).detach().permute(0, 2, 3, 1).reshape(-1, 4) for x in inputs])
    products = run(conv, inputs).patches @ weight_matrix(conv).T
    distance = torch.cdist(products, outputs).amin(dim=1)
    assert len(products) >= PATCHES
    np.testing.assert_allclose(distance.detach().numpy(), 0, atol=1e-2)


def test_grouped_convolutions_have_no_patches():
    assert run(nn.Conv2d(4, 4, 3, groups=2), [torch.randn(1, 4, 5, 5)]).patches is None


def test_steps_of_one_entry_and_calls_of_one_step_are_pooled():
    inputs = [torch.full((2, 3, 4), float(value)) for value in (1, 2, 5, 6, -7, 0)]
    seen = run(nn.Linear(4, 1), inputs, entries=[0, 1, 0], calls=2)
    assert seen.low[:, 0].tolist() == [-7, 5]
    assert seen.high[:, 0].tolist() == [2, 6]
    for value in (1.0, 2.0, -7.0, 0.0):
        assert 0.2 < (seen.samples[0] == value).float().mean() < 0.3
    assert len(seen.patches) >= PATCHES


def test_a_layer_that_misses_an_entry_has_no_statistics():
    module, calls = nn.Linear(4, 1), [torch.zeros(1, 4)]

    def trajectory():
        module(calls[0])
        yield None
        yield None

    assert record_inputs({"layer": module}, trajectory(), [0, 1], 1, seed=0)["layer"] is None
