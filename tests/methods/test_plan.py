"""Which layers are quantised and what is said of the others."""

import fixtures
import pytest
import torch
from pydantic import ValidationError

from mpq_export.architectures import ARCHITECTURES
from mpq_export.errors import RecipeError
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import plan_layers
from mpq_export.methods.recipe import LayerRule
from mpq_export.precision import W8A8, BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices

UNET, RTN = ARCHITECTURES["UNet2DModel"], recipe_of("rtn")


def test_every_convolution_and_linear_is_planned_or_listed_as_kept():
    model = fixtures.tiny_unet()
    plan = plan_layers(model, UNET, BitSpec(3, 4), RTN)
    with_parameters = {
        name for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    assert plan.bits.keys() | plan.kept.keys() == with_parameters
    assert not plan.bits.keys() & plan.kept.keys()
    assert all(plan.kept.values())


def test_first_last_and_timestep_layers_take_eight_bits():
    plan = plan_layers(fixtures.tiny_unet(), UNET, BitSpec(3, 4), RTN)
    assert set(plan.eight_bit) == {
        "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"
    }  # fmt: skip
    for name, bits in plan.bits.items():
        assert bits == (W8A8 if name in plan.eight_bit else BitSpec(3, 4))
    assert "down_blocks.0.resnets.0.time_emb_proj" in plan.bits


def test_at_w8a8_no_layer_is_an_exception():
    plan = plan_layers(fixtures.tiny_unet(), UNET, W8A8, RTN)
    assert plan.eight_bit == {}
    assert set(plan.bits.values()) == {W8A8}


def test_modules_that_are_no_matrix_are_kept_with_the_reason():
    model = fixtures.tiny_unet()
    model.mid_block.resnets[0].conv1 = torch.nn.ConvTranspose2d(16, 16, 3, padding=1)
    plan = plan_layers(model, UNET, BitSpec(3, 4), RTN)
    assert "ConvTranspose2d" in plan.kept["mid_block.resnets.0.conv1"]
    assert "normalisation" in plan.kept["mid_block.resnets.0.norm1"]


def test_other_padding_modes_stay_in_floating_point_with_the_reason():
    model = fixtures.tiny_unet()
    model.mid_block.resnets[0].conv1.padding_mode = "circular"
    plan = plan_layers(model, UNET, BitSpec(3, 4), RTN)
    assert "circular" in plan.kept["mid_block.resnets.0.conv1"]


def ruled(*rules):
    recipe = RTN.model_copy(update={"layers": tuple(LayerRule(**rule) for rule in rules)})
    return plan_layers(fixtures.tiny_unet(), UNET, BitSpec(3, 4), recipe)


def test_the_last_rule_counts_field_by_field():
    plan = ruled(
        {"match": "mid_block.*", "bits": "w4a8", "smoothing": True},
        {"match": "mid_block.attentions.*", "bits": "w6a8"},
        {"match": "*.to_v", "weight_form": "free"},
    )
    value = plan.layers["mid_block.attentions.0.to_v"]
    assert (value.bits, value.smoothing, value.weight_form) == (BitSpec(6, 8), True, "free")
    conv = plan.layers["mid_block.resnets.0.conv1"]
    assert (conv.bits, conv.smoothing, conv.weight_form) == (BitSpec(4, 8), True, "uniform")
    assert plan.overridden["mid_block.attentions.0.to_v"] == "rule *.to_v"
    assert plan.layers["down_blocks.0.resnets.0.conv1"].bits == BitSpec(3, 4)


def test_rules_can_keep_layers_and_take_that_back():
    plan = ruled(
        {"match": "down_blocks.*", "keep": "a trial"},
        {"match": "mid_block.*", "keep": True},
        {"match": "*.conv1", "keep": False},
    )
    assert plan.kept["down_blocks.0.resnets.0.conv2"] == "a trial"
    assert plan.kept["mid_block.resnets.0.conv2"] == "kept by the recipe"
    assert "down_blocks.0.resnets.0.conv1" in plan.layers


def test_a_rule_decides_over_the_eight_bit_layers():
    plan = ruled({"match": "conv_in", "bits": "w2a4"})
    assert plan.layers["conv_in"].bits == BitSpec(2, 4)
    assert "conv_in" not in plan.eight_bit
    assert "conv_out" in plan.eight_bit


def test_rules_that_match_nothing_or_leave_nothing_are_refused():
    with pytest.raises(RecipeError, match=r"matches no layer \(\*\.to_w\)"):
        ruled({"match": "*.to_w", "bits": "w4a8"})
    with pytest.raises(RecipeError, match="Nothing is left"):
        ruled({"match": "*", "keep": True})


def voting(*patterns):
    """The plan of a recipe in which the layers of some patterns vote for steps."""
    choices = PowerOfTwoChoices(match=patterns) if patterns else PowerOfTwoChoices()
    recipe = recipe_of("rtn").model_copy(update={"power_of_two": choices})
    model = torch.nn.ModuleDict({"ff": torch.nn.Linear(4, 4), "to_q": torch.nn.Linear(4, 4)})
    return plan_layers(model, ARCHITECTURES["DiTTransformer2DModel"], BitSpec(3, 4), recipe)


def test_a_recipes_own_pattern_of_voters_matches_some_layer():
    assert voting().layers.keys() == voting("*.conv_shortcut", "f*").layers.keys() == {"ff", "to_q"}
    with pytest.raises(RecipeError, match=r"matches no layer \(power_of_two.match: \*\.no_such\)"):
        voting("ff", "*.no_such")


@pytest.mark.parametrize("rule", [{"match": "*", "bits": "w9a9"}, {"match": ""}, {"bits": "w3a4"}])
def test_malformed_rules_are_refused(rule):
    with pytest.raises(ValidationError):
        LayerRule(**rule)
