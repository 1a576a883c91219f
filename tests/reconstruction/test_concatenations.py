"""Layers that read a concatenation, found while a model runs."""

import fixtures
import pytest
import torch
from tiny_walk import CONFIG, SCHEDULER
from torch import nn

from mpq_export.reconstruction.concatenations import _Concatenations, concatenated_inputs
from mpq_export.reconstruction.walk import CalibrationWalk, ChosenImages, replay
from mpq_export.training.trajectories import full_precision_trajectory


def test_shortcuts_of_up_blocks_read_what_they_skip():
    model, walk = fixtures.tiny_unet(), CalibrationWalk()
    list(walk.keeping(full_precision_trajectory(model, CONFIG, SCHEDULER, 1, 1, 0)))
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    one = ChosenImages(walk.steps[0], torch.arange(1))
    found = concatenated_inputs(model, lambda: replay(model, CONFIG, one), layers)
    shortcuts = {f"up_blocks.{i}.resnets.{j}.conv_shortcut" for i in range(2) for j in range(2)}
    # Sines and cosines are put together too.
    assert found.keys() == {*shortcuts, "time_embedding.linear_1"}
    for name, sizes in found.items():
        assert sum(sizes) == model.get_submodule(name).weight.shape[1]
    assert not any(module._forward_pre_hooks for module in model.modules())
    empty = model.to("meta")
    arguments = torch.zeros(1, 2, 8, 8, device="meta"), torch.zeros(1, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta")
    without_data = concatenated_inputs(empty, lambda: empty(*arguments, labels), layers)
    assert without_data == found


@pytest.mark.parametrize(
    "join",
    [
        lambda parts: torch.cat(parts, 1),
        lambda parts: torch.cat(tensors=parts, dim=-3),
        lambda parts: torch.concat(parts, dim=1),
        lambda parts: torch.concatenate(parts, axis=1),
        lambda parts: torch.concatenate(parts, -3),
    ],
)
def test_all_names_of_a_concatenation_are_known(join):
    parts = [torch.zeros(2, channels, 3, 3) for channels in (4, 1, 2)]
    with _Concatenations() as watching:
        x = join(parts)
    assert watching.sizes(x, 1) == [4, 1, 2]
    assert watching.sizes(x, 0) == []
    assert watching.sizes(x.clone(), 1) == []
    assert watching.sizes(parts[0], 1) == []


@pytest.mark.parametrize("empty", [torch.zeros(0), torch.zeros(2, 0, 3, 3)])
def test_what_is_empty_is_no_part(empty):
    with _Concatenations() as watching:
        x = torch.cat([torch.zeros(2, 4, 3, 3), empty, torch.zeros(2, 1, 3, 3)], 1)
    assert watching.sizes(x, 1) == [4, 1]
