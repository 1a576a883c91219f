"""Calls of blocks, recorded from the model's own trajectories."""

import fixtures
import pytest
import torch
from tiny_walk import CONFIG
from torch import nn

from mpq_export.errors import LayerError
from mpq_export.reconstruction import calls as calls_room
from mpq_export.reconstruction.blocks import blocks_of
from mpq_export.reconstruction.calls import record_calls, running_order, samples_of_block
from mpq_export.reconstruction.walk import Samples, replay

BLOCK = "up_blocks.0.resnets.0"


def test_a_replayed_prediction_is_the_trajectorys(model, walk):
    for chosen in walk.chosen(walk.of_every_step(3), seed=1):
        torch.testing.assert_close(
            replay(model, CONFIG, chosen), chosen.step.prediction[chosen.images]
        )


def test_a_recorded_call_gives_the_recorded_output(model, walk):
    block = model.get_submodule(BLOCK)
    calls = record_calls(model, CONFIG, walk.chosen(walk.of_every_step(2), seed=0), block)
    rows = torch.tensor([5, 0, 3])
    args, kwargs = calls.arguments(rows)
    torch.testing.assert_close(block(*args, **kwargs), calls.outputs[rows])
    assert calls.entries.tolist() == [0, 0, 1, 1, 2, 2]
    assert not block._forward_hooks


def test_a_model_of_other_weights_gives_other_inputs(model, walk):
    other = fixtures.tiny_unet(seed=8)
    chosen = walk.chosen(walk.of_every_step(1), seed=0)
    own, foreign = (
        record_calls(which, CONFIG, chosen, which.get_submodule(BLOCK)) for which in (model, other)
    )
    assert own.inputs.keys() == foreign.inputs.keys()
    assert not any(torch.equal(own.inputs[i], foreign.inputs[i]) for i in own.inputs)


def test_large_samples_are_fewer(model, walk, monkeypatch):
    block = model.get_submodule(BLOCK)
    assert samples_of_block(model, CONFIG, walk, block, 7) == Samples(3, 3)
    one = record_calls(model, CONFIG, walk.chosen(walk.of_every_step(1), 0)[:1], block)
    size = 4 * (one.outputs.numel() + sum(x.numel() for x in one.inputs.values()))
    monkeypatch.setattr(calls_room, "MAX_BYTES", 2 * fixtures.NUM_STEPS * size)
    assert samples_of_block(model, CONFIG, walk, block, 7) == Samples(3, 2)
    monkeypatch.setattr(calls_room, "MAX_BYTES", 2 * size)
    few = samples_of_block(model, CONFIG, walk, block, 7)
    assert few == Samples(2, 1)  # of the first and the last step
    calls = record_calls(model, CONFIG, walk.chosen(few, 0), block)
    assert calls.entries.tolist() == [0, 2]
    monkeypatch.setattr(calls_room, "MAX_BYTES", 1)
    assert samples_of_block(model, CONFIG, walk, block, 7) == Samples(1, 1)


def test_a_block_that_does_not_run_is_named(model, walk):
    with pytest.raises(LayerError, match="does not run"):
        record_calls(model, CONFIG, walk.chosen(walk.of_every_step(1), 0), nn.Linear(1, 1))


def test_blocks_hold_every_layer_once_and_are_told_in_running_order(model, walk):
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    blocks = blocks_of(model, layers)
    held = [layer for block in blocks for layer in block.layers]
    assert sorted(held) == sorted(layers)
    by_name = {block.name: block for block in blocks}
    assert "mid_block.resnets.0.conv1" in by_name["mid_block.resnets.0"].layers
    assert by_name["conv_in"].layers == ("conv_in",)
    order = running_order(model, CONFIG, walk, by_name)
    assert sorted(order) == sorted(by_name)
    places = [
        order.index(name)
        for name in ("time_embedding.linear_1", "conv_in", "mid_block.resnets.0", BLOCK, "conv_out")
    ]
    assert places == sorted(places)
