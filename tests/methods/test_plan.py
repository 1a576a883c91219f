"""Which layers are quantised and what is said of the others."""

import fixtures
import torch

from mpq_export.architectures import ARCHITECTURES
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import W8A8, BitSpec

UNET = ARCHITECTURES["UNet2DModel"]


def test_every_convolution_and_linear_is_planned_or_listed_as_kept():
    model = fixtures.tiny_unet()
    plan = plan_layers(model, UNET, BitSpec(3, 4))
    with_parameters = {
        name for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    assert plan.bits.keys() | plan.kept.keys() == with_parameters
    assert not plan.bits.keys() & plan.kept.keys()
    assert all(plan.kept.values())


def test_first_last_and_timestep_layers_take_eight_bits():
    plan = plan_layers(fixtures.tiny_unet(), UNET, BitSpec(3, 4))
    assert set(plan.eight_bit) == {
        "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"
    }  # fmt: skip
    for name, bits in plan.bits.items():
        assert bits == (W8A8 if name in plan.eight_bit else BitSpec(3, 4))
    assert "down_blocks.0.resnets.0.time_emb_proj" in plan.bits


def test_at_w8a8_no_layer_is_an_exception():
    plan = plan_layers(fixtures.tiny_unet(), UNET, W8A8)
    assert plan.eight_bit == {}
    assert set(plan.bits.values()) == {W8A8}


def test_other_padding_modes_stay_in_floating_point_with_the_reason():
    model = fixtures.tiny_unet()
    old = model.mid_block.resnets[0].conv1
    model.mid_block.resnets[0].conv1 = torch.nn.Conv2d(
        old.in_channels, old.out_channels, 3, padding=1, padding_mode="circular"
    )
    plan = plan_layers(model, UNET, BitSpec(3, 4))
    assert "circular" in plan.kept["mid_block.resnets.0.conv1"]
