"""Rows that meet weights, and layers that share their input."""

import diffusers
import pytest
import torch
from tiny_walk import CONFIG, SCHEDULER
from torch import nn

from mpq_export.core.layers import geometry_of, weight_matrix
from mpq_export.reconstruction import patches as room
from mpq_export.reconstruction.patches import patches_of, record_patches, shared_inputs
from mpq_export.reconstruction.walk import CalibrationWalk
from mpq_export.training.trajectories import full_precision_trajectory

ATTENTION = "mid_block.attentions.0"


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(5, 3),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Conv2d(4, 3, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(0, 1)),
    ],
    ids=["linear", "conv", "strides and dilation"],
)
def test_rows_times_the_weight_are_outputs(module):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 6, 5) if isinstance(module, nn.Linear) else (2, 4, 7, 8)
    x = torch.randn(shape, generator=generator)
    rows = patches_of(x, geometry_of(module), 50, generator)
    outputs = module(x).detach()
    outputs = outputs if outputs.dim() == 3 else outputs.permute(0, 2, 3, 1)
    possible = outputs.reshape(-1, 3)
    got = rows @ weight_matrix(module).T + module.bias.detach()
    distances = (got[:, None] - possible).abs().amax(dim=2).amin(dim=1)
    assert distances.max() < 1e-5
    assert len({tuple(row) for row in got.round(decimals=4).tolist()}) > 10


def test_queries_keys_and_values_share_their_input(model, walk):
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    groups = shared_inputs(model, CONFIG, walk, layers)
    assert sorted(name for group in groups for name in group) == sorted(layers)
    wanted = tuple(f"{ATTENTION}.to_{part}" for part in "qkv")
    assert wanted in groups
    several = [group for group in groups if len(group) > 1]
    assert all(name.endswith(("to_q", "to_k", "to_v")) for group in several for name in group)


def test_only_layers_of_one_module_share_the_text():
    """All keys and values of cross-attention are given the very same tensor."""
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=2, cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    config, walk = {**model.config, "_class_name": "UNet2DConditionModel"}, CalibrationWalk()
    list(walk.keeping(full_precision_trajectory(model, config, SCHEDULER, 1, 1, 0)))
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    several = [g for g in shared_inputs(model, config, walk, layers) if len(g) > 1]
    cross = {name for name in layers if name.endswith(("attn2.to_k", "attn2.to_v"))}
    wanted = {(name, name.replace("to_k", "to_v")) for name in cross if name.endswith("to_k")}
    assert len(wanted) >= 3
    assert {group for group in several if not cross.isdisjoint(group)} == wanted
    assert {len(group) for group in several if cross.isdisjoint(group)} == {3}


def test_rows_are_the_same_however_many_fit_into_memory(model, walk, monkeypatch):
    groups = [("conv_in",), (f"{ATTENTION}.to_q", f"{ATTENTION}.to_k"), ("conv_out",)]
    together = dict(record_patches(model, CONFIG, walk, groups, 10, images=4, seed=3))
    monkeypatch.setattr(room, "MAX_BYTES", 1)
    alone = dict(record_patches(model, CONFIG, walk, groups, 10, images=4, seed=3))
    assert list(together) == list(alone) == groups
    for group in groups:
        columns = weight_matrix(model.get_submodule(group[0])).shape[1]
        assert together[group].rows.shape == (12, columns)
        assert torch.equal(together[group].rows, alone[group].rows)
        assert together[group].entries.tolist() == [0] * 4 + [1] * 4 + [2] * 4
