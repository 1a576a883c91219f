"""What is in the grid: the same training for every method, one change at a time."""

from collections import Counter
from itertools import pairwise

import pytest
from mpq_export.pipelines.ablation.grid import (
    ABLATED,
    ALL_METHODS,
    AS_LONG,
    BUDGETS,
    POST_TRAINING_METHODS,
    PREPARATION,
    Overrides,
    grid,
)
from mpq_export.pipelines.ablation.ingredients import (
    INGREDIENTS,
    combination_stages,
    scaling_steps,
    switched,
    temporal_steps,
)

from mpq_export.core.weight_form import WeightForm
from mpq_export.methods import Recipe, recipe_of
from mpq_export.training.choices import Trained


@pytest.mark.parametrize("part", grid().values(), ids=lambda part: part.name)
def test_cells_of_a_family_are_trained_alike(part):
    for cell in part.cells:
        training, budget = cell.recipe.training, BUDGETS[cell.family]
        if training.updates:
            longer = PREPARATION[cell.family] if cell.label == AS_LONG else 0
            assert training.updates == budget.updates + longer
            assert (training.groups, training.images_per_group) == (
                budget.groups,
                budget.images_per_group,
            )
        else:
            assert part.name == "forms" or cell.recipe.method in POST_TRAINING_METHODS


def test_the_parts_that_were_asked_for():
    parts = grid()
    for name in ("digits", "digits-dit"):
        cells = [cell for cell in parts[name].cells if cell.label in ALL_METHODS]
        assert len({(cell.bits, cell.label) for cell in cells}) == len(cells)
        assert len(cells) == 4 * len(ALL_METHODS)
        assert {cell.bits for cell in cells} == {"w4a8", "w3a6", "w3a4", "w2a4"}
        assert {cell.weights for cell in cells if cell.label != "rtn"} == {Trained.FULL.value}
        assert {(cell.num_images, cell.num_steps) for cell in cells} == {(1000, 20)}
    (published,) = (c for c in parts["digits"].cells if not c.recipe.training.error_power)
    assert (published.bits, published.label) == ("w3a6", "mpq-dmv2, errors alike")
    smoothed = [cell for cell in parts["digits-dit"].cells if cell.label not in ALL_METHODS]
    assert [(cell.bits, cell.recipe.smoothing) for cell in smoothed] == [
        ("w3a4", True), ("w2a4", True),
    ]  # fmt: skip
    seeds = Counter((cell.bits, cell.weights, cell.label) for cell in parts["photos"].cells)
    for method in ("efficientdm", "mpq-dm", "mpq-dmv2"):
        assert seeds["w2a4", "low-rank", method] == 3
        assert seeds["w3a4", "low-rank", method] == seeds["w2a4", "full", method] == 1
    changed = [cell.recipe for cell in parts["photos-ablation"].cells if cell.bits == "w2a4"]
    assert len(changed) == len(set(changed)) == 3 + len(INGREDIENTS)
    forms = [c.recipe.weight_form for c in parts["photos-ablation"].cells if c.bits == "w3a4"]
    assert forms == [WeightForm.RESIDUAL, WeightForm.FREE]


def test_the_combination_is_compared_at_its_own_time_and_with_what_is_there_already():
    parts = grid()
    cells = parts["combination"].cells
    made = {
        (cell.family, cell.bits, cell.recipe, cell.seed, cell.num_images)
        for name in ("digits-dit", "photos")
        for cell in parts[name].cells
    }
    for place in range(0, len(cells), 3):
        alone, longer, combined = cells[place : place + 3]
        assert len({(c.family, c.bits, c.seed, c.weights) for c in (alone, longer, combined)}) == 1
        assert (alone.label, longer.label, combined.label) == ("mpq-dmv2", AS_LONG, "mpq-combined")
        assert alone.recipe.training.updates == combined.recipe.training.updates
        if alone.seed == 0:
            own = (alone.family, alone.bits, alone.recipe, alone.seed, alone.num_images)
            assert own in made, "it is there already"
    assert {(c.family, c.bits) for c in cells} == {
        (family, bits) for family in ("photos", "digits_dit") for bits in ("w3a4", "w2a4")
    }


def test_every_stage_of_the_combination_is_left_out_once():
    whole, alone = recipe_of("mpq-combined"), recipe_of("mpq-dmv2")
    added = {
        name
        for name in Recipe.model_fields
        if getattr(whole, name) != getattr(alone, name) and name not in ("method", "summary")
    }
    left_out = set()
    for label, recipe in combination_stages(whole).items():
        (name,) = (n for n in Recipe.model_fields if getattr(recipe, n) != getattr(whole, n))
        if label.startswith("without"):
            assert getattr(recipe, name) == getattr(alone, name)
            left_out.add(name)
        else:
            assert recipe.training.model_copy(update={"step_power": 0}) == whole.training
    assert left_out == added


def test_a_bundle_is_deployed_that_was_trained_anyway():
    parts = grid()
    made = {
        (cell.family, cell.bits, cell.recipe, cell.seed)
        for name in ("digits", "photos")
        for cell in parts[name].cells
    }
    for cell in parts["deployed"].cells:
        assert (cell.family, cell.bits, cell.recipe, cell.seed) in made


def test_overrides_leave_what_is_not_trained_and_not_drawn():
    parts = grid(Overrides(updates=5, images=100))
    for part in parts.values():
        for cell in part.cells:
            assert cell.recipe.training.updates in (0, 5)
            assert cell.num_images in (0, 100)
    assert all(cell.recipe.training.updates == 0 for cell in parts["forms"].cells)
    assert all(cell.num_images == 0 for cell in parts["forms"].cells)


def differences(one: dict, other: dict) -> set[str]:
    return {name for name in one if one[name] != other[name]}


def test_an_ingredient_is_switched_alone():
    variants = switched(ABLATED)
    assert len(variants) == len(INGREDIENTS)
    for ingredient, (label, recipe) in zip(INGREDIENTS, variants.items(), strict=True):
        assert label.endswith(ingredient.name)
        changed = differences(ABLATED.model_dump(), recipe.model_dump())
        training = differences(ABLATED.training.model_dump(), recipe.training.model_dump())
        where, _, name = ingredient.field.rpartition(".")
        assert (changed, training) == (({"training"}, {name}) if where else ({name}, set()))


def test_what_the_recipe_has_not_is_put_in():
    """And taken out again of what has it."""
    plain = ABLATED.model_copy(update={"smoothing": False, "weight_form": WeightForm.FREE})
    variants = switched(plain)
    assert variants["with smoothing"].smoothing
    assert variants["with residual planes"].weight_form is WeightForm.RESIDUAL
    assert not switched(variants["with smoothing"])["without smoothing"].smoothing


def test_methods_without_training_have_the_same_calibration():
    parts = grid()
    cells = parts["post-training"].cells
    assert len(cells) == len({(c.family, c.bits, c.seed, c.label) for c in cells})
    assert {cell.label for cell in cells} == set(POST_TRAINING_METHODS)
    assert len(cells) == len(POST_TRAINING_METHODS) * (3 * 3 + 2)
    assert len({cell.recipe.calibration_images for cell in cells}) == 1
    assert not any(cell.recipe.training.updates for cell in cells)


def test_temporal_parts_come_one_after_another():
    rows = temporal_steps(recipe_of("tfmq-dm"))
    changed = [
        {name for name in Recipe.model_fields if getattr(one, name) != getattr(other, name)}
        for one, other in pairwise(list(rows.values())[:4])
    ]
    assert changed == [{"temporal_rounding", "rounding"}, {"tables"}, {"cache"}]
    assert rows["+ cache"] == recipe_of("tfmq-dm")
    (cell,) = (
        c
        for c in grid()["post-training"].cells
        if (c.family, c.bits, c.seed, c.label) == ("photos", "w4a6", 0, "tfmq-dm")
    )
    assert cell.recipe.model_copy(update={"training": rows["+ cache"].training}) == rows["+ cache"]


def test_parts_of_scaling_come_one_after_another():
    rows = scaling_steps(recipe_of("dmq"))
    changed = [
        {name for name in Recipe.model_fields if getattr(one, name) != getattr(other, name)}
        for one, other in pairwise(list(rows.values())[:5])
    ]
    assert changed == [{"split_concatenations"}, {"scaling"}, {"scaling"}, {"power_of_two"}]
    assert rows["+ scaling"].scaling.step_power == 0
    assert rows["+ power-of-two"] == recipe_of("dmq")
    labels = {cell.label for cell in grid()["post-training-ablation"].cells}
    assert rows.keys() <= labels


def test_methods_without_training_are_corrected_as_they_are():
    rows = [c for c in grid()["post-training-ablation"].cells if c.recipe.bias_correction]
    assert {(c.label, c.seed) for c in rows} == {
        (f"{name}, bias correction", seed) for name in POST_TRAINING_METHODS for seed in range(3)
    }
    for cell in rows:
        plain = cell.recipe.model_copy(update={"bias_correction": False})
        assert plain == recipe_of(cell.recipe.method)
