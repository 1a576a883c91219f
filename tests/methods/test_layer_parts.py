"""Parts of layers for any shifts, factors and halves: nothing is lost, all fits the contract."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.channel_parts import check_parts
from mpq_export.core.integer_reference import check_layer, column_factors, run_layer
from mpq_export.core.layers import ChannelSum, FrozenLayer, StepIndex, part_weights, weight_matrix
from mpq_export.core.planes import unpack
from mpq_export.core.weight_form import WeightForm
from mpq_export.methods.channel_votes import Electorate, VotingLayer, voted_parts
from mpq_export.methods.layer_jobs import LayerJob, quantized_in_order, split_job
from mpq_export.methods.layer_parts import (
    Part,
    most_windows,
    parts_layout,
    read_parts,
    shift_room,
    shift_windows,
    written_parts,
)
from mpq_export.methods.plan import LayerChoices
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices
from mpq_export.training.calibration import InputStatistics

STEPS, IMAGES, SIDE = 2, 3, 4
act_bits = st.integers(2, 8)


@st.composite
def channel_shifts(draw):
    """Shifts of 1 to 14 channels: all one, all alike but one, or anything up to 6."""
    channels = draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["one", "alone", "any"]))
    if kind == "any":
        return draw(st.lists(st.integers(0, 6), min_size=channels, max_size=channels))
    shifts = [draw(st.integers(0, 6))] * channels
    if kind == "alone":
        shifts[draw(st.integers(0, channels - 1))] = draw(st.integers(0, 6))
    return shifts


@given(channel_shifts(), act_bits)
def test_windows_share_the_channels_out_and_keep_their_shifts(shifts, bits):
    shifts, room = np.array(shifts), shift_room(bits)
    shifts -= shifts.min()
    windows = shift_windows(shifts, room)
    assert len(windows) <= most_windows(len(shifts), 6, bits)
    places = np.concatenate([own for own, _ in windows])
    assert sorted(places.tolist()) == list(range(len(shifts)))
    for own, left in windows:
        assert left.dtype == np.int8
        assert left.min() == 0
        assert left.max() <= room
        assert (np.diff(own) > 0).all()
        assert len(set((shifts[own] - left).tolist())) == 1, "what a window shares is its table's"


@given(channel_shifts(), act_bits)
def test_what_is_written_is_read_and_is_what_a_run_expects(shifts, bits):
    shifts = np.array(shifts) - min(shifts)
    parts = [
        Part(own.astype(np.int32), left) for own, left in shift_windows(shifts, shift_room(bits))
    ]
    written = written_parts(parts, len(shifts))
    layout = parts_layout(len(shifts), most_windows(len(shifts), 6, bits), bits)
    for name, value in written.items():
        assert (value.dtype, tuple(value.shape)) == (layout[name].dtype, layout[name].shape)
        assert layout[name].holds(value)
    for one, other in zip(parts, read_parts(written), strict=True):
        np.testing.assert_array_equal(one.channels, other.channels)
        np.testing.assert_array_equal(one.shift, other.shift)


def layer_of(shifts, is_conv, seed):
    """A module, inputs of which some channels are 0 and others tiny, and what is seen of them."""
    generator = torch.Generator().manual_seed(seed)
    channels = len(shifts)
    module = nn.Conv2d(channels, 3, 3, padding=1) if is_conv else nn.Linear(channels, 3)
    weights = torch.randn(module.weight.shape, generator=generator)
    module.weight = nn.Parameter(weights, requires_grad=False)
    spread = torch.exp2(torch.tensor(shifts, dtype=torch.float32) - 6)
    spread[torch.rand(channels, generator=generator) < 0.2] = 0
    x = torch.randn(STEPS, IMAGES, SIDE * SIDE, channels, generator=generator) * spread
    flat = x.flatten(1, 2)
    chosen = torch.randint(0, channels, (40,), generator=generator)
    places = torch.randint(0, flat.shape[1], (40,), generator=generator)
    seen = InputStatistics(
        flat.amin(dim=1), flat.amax(dim=1), flat[:, places, chosen], chosen, None
    )
    return module, x, seen


def choices_of(bits, weight_bits=8):
    return LayerChoices(BitSpec(weight_bits, bits), WeightForm.UNIFORM, Allocation.EQUAL, False)


@settings(deadline=None, max_examples=40)
@given(channel_shifts(), act_bits, st.booleans(), st.data())
def test_factors_and_shifts_together_are_undone_by_levels_and_codes(shifts, bits, is_conv, data):
    """Decoded inputs are the layer's own to half a step, weights to what eight bits hold; and sums
    of parts in torch are those of the reference."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    module, x, seen = layer_of(shifts, is_conv, seed)
    channels = len(shifts)
    exponent = data.draw(st.lists(st.floats(-6, 6), min_size=channels, max_size=channels))
    gain = torch.exp2(torch.tensor(exponent, dtype=torch.float32))
    cuts = sorted({0, channels, *data.draw(st.lists(st.integers(0, channels), max_size=2))})
    parts = []
    for start, end in pairwise(cuts):
        own = np.array(shifts[start:end])
        for places, left in shift_windows(own - own.min(), shift_room(bits)):
            parts.append(Part((start + places).astype(np.int32), left))
    whole = LayerJob("m", module, choices_of(bits), seen, gain)
    jobs = split_job(whole, parts)
    layers = dict(zip([job.name for job in jobs], quantized_in_order(jobs), strict=True))
    if len(parts) > 1:
        check_parts(layers, {name: p.channels for name, p in zip(layers, parts, strict=True)})
    sample = x[1].reshape(IMAGES, SIDE, SIDE, channels).permute(0, 3, 1, 2) if is_conv else x[1]
    total, made, step = None, [], StepIndex(1)
    for part, layer in zip(parts, layers.values(), strict=True):
        check_layer(layer)
        own, factor = torch.from_numpy(part.channels.astype(np.int64)), gain[part.channels]
        np.testing.assert_array_equal(layer.input_shift, part.shift)
        values = sample.index_select(1 if is_conv else -1, own)
        trace = run_layer(layer, values.numpy(), 1)
        total = trace.output if total is None else total + trace.output
        made.append(FrozenLayer(layer, step))
        scale, zero = float(layer.act_scale[1]), int(layer.act_zero_point[1])
        by_channel = np.moveaxis(trace.codes, 1, -1) if is_conv else trace.codes
        real = np.moveaxis(values.numpy(), 1, -1) if is_conv else values.numpy()
        unit = scale * np.exp2(part.shift.astype(np.float64)) * factor.numpy()
        inside = (by_channel > 0) & (by_channel < 2**bits - 1)
        error = np.abs((by_channel.astype(np.float64) - zero) * unit - real)
        assert (error <= 0.5001 * unit + 1e-30)[inside].all()
        taps = module.weight[0].numel() // channels
        meant = part_weights(weight_matrix(module), taps, part.channels)
        meant = meant.numpy() * column_factors(factor.numpy(), layer.conv, 3)
        error = unpack(layer.weight).weights() - meant
        assert (np.linalg.norm(error, axis=1) <= 0.02 * np.linalg.norm(meant, axis=1)).all()
    if len(parts) > 1:
        summed = ChannelSum(made, [part.channels for part in parts], is_conv)
        np.testing.assert_array_equal(summed(sample).numpy(), total)


@settings(deadline=None, max_examples=25)
@given(channel_shifts(), act_bits, st.booleans(), st.floats(0.2, 1), st.integers(0, 2**32 - 1))
def test_votes_give_parts_that_a_layer_can_have(shifts, bits, is_conv, agreement, seed):
    module, x, seen = layer_of(shifts, is_conv, seed)
    channels = len(shifts)
    halves = [np.arange(channels)]
    if channels > 2:
        halves = [np.arange(1), np.arange(1, channels)]
    layer = VotingLayer(module, choices_of(bits), seen, None)
    inputs = x.flatten(0, 1).transpose(1, 2)
    electorate = Electorate(inputs, torch.arange(STEPS).repeat_interleave(IMAGES))
    choices = PowerOfTwoChoices(largest_shift=6, agreement=agreement)
    parts = voted_parts(layer, halves, electorate, choices)
    together = np.concatenate([part.channels for part in parts])
    assert sorted(together.tolist()) == list(range(channels))
    assert len(parts) <= sum(most_windows(len(half), 6, bits) for half in halves)
    for part in parts:
        assert part.shift.min() == 0
        assert part.shift.max() <= shift_room(bits)
        assert any(set(part.channels) <= set(half) for half in halves)
    for job in split_job(LayerJob("m", module, layer.choices, seen, None), parts):
        check_layer(next(quantized_in_order([job])))


@pytest.mark.parametrize("bits", [4, 8])
def test_small_channels_are_shifted_or_apart(bits):
    """A made case in which votes must win: half of the channels are far smaller."""
    shifts = [6] * 6 + [1] * 6
    module, x, _ = layer_of(shifts, is_conv=False, seed=0)
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    x = x * torch.exp2(torch.tensor(shifts, dtype=torch.float32) - 6)
    flat = x.flatten(1, 2)
    chosen = torch.arange(12).repeat(8)
    places = torch.arange(96) % flat.shape[1]
    seen = InputStatistics(
        flat.amin(dim=1), flat.amax(dim=1), flat[:, places, chosen], chosen, None
    )
    layer = VotingLayer(module, choices_of(bits), seen, None)
    electorate = Electorate(
        x.flatten(0, 1).transpose(1, 2), torch.arange(STEPS).repeat_interleave(IMAGES)
    )
    parts = voted_parts(layer, [np.arange(12)], electorate, PowerOfTwoChoices(agreement=0.5))
    if bits == 4:
        (part,) = parts
        assert part.shift.tolist() == [3] * 6 + [0] * 6
    else:
        assert [part.channels.tolist() for part in parts] == [[*range(6, 12)], [*range(6)]]
