"""Recipes from YAML: what they change, and what is said of mistakes."""

from pathlib import Path

import pytest

from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.weight_form import WeightForm
from mpq_export.errors import BitsError, RecipeError
from mpq_export.methods import METHODS, Recipe, chosen_recipe, recipe_of
from mpq_export.precision import BitSpec
from mpq_export.training.choices import RelationKind


@pytest.fixture
def write(tmp_path: Path):
    """Writes a recipe file."""

    def written(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return written


def test_without_a_file_the_method_is_the_recipe():
    assert chosen_recipe("rtn", None, "w3a4").recipe == recipe_of("rtn")
    assert chosen_recipe(None, None, "w3a4").recipe == recipe_of("mpq-dmv2")


def test_a_file_changes_what_it_names(write):
    path = write(
        """
        method: mpq-dm
        bits: w3a4
        weight_form: free
        calibration_images: 5
        layers:
          - match: "*.to_v"
            bits: w4a8
            allocation: equal
          - match: conv_in
            keep: too small
        """
    )
    choice = chosen_recipe(None, path, None)
    assert choice.bits == BitSpec(3, 4)
    recipe = choice.recipe
    assert (recipe.method, recipe.smoothing) == ("mpq-dm", True)
    assert (recipe.weight_form, recipe.calibration_images) == (WeightForm.FREE, 5)
    assert recipe.layers[0].allocation is Allocation.EQUAL
    assert recipe.layers[1].keep == "too small"


def test_bits_of_the_command_go_before_those_of_the_file(write):
    assert chosen_recipe(None, write("bits: w3a4"), "w2a8").bits == BitSpec(2, 8)


def test_a_method_may_be_named_twice_if_it_is_the_same(write):
    path = write("method: rtn")
    assert chosen_recipe("rtn", path, "w3a4").recipe == recipe_of("rtn")
    with pytest.raises(RecipeError, match="Two methods"):
        chosen_recipe("mpq-dm", path, "w3a4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: gptq\nbits: w3a4", "no method 'gptq'"),
        ("method: [rtn]", "method and bits are text"),
        ("bits: 3", "method and bits are text"),
        ("bits: w3", "is not a bit width"),
        ("weight_form: curly", "weight_form"),
        ("smoothing: perhaps", "smoothing"),
        ("calibration_images: 0", "calibration_images"),
        ("summary: mine", "summary"),
        ("color: red", "color: Extra inputs"),
        ("layers: yes", "layers"),
        ("layers:\n  - bits: w4a8", "layers.0.match"),
        ("layers:\n  - match: a\n    bits: w9a9", "layers.0.bits"),
        ("layers:\n  - match: a\n    size: 3", "layers.0.size"),
        ("a: &x [1]\nb: *x", "anchors"),
        ("training:\n  updates: -1", "training.updates: "),
        ("training:\n  updates: 10000001", "training.updates: "),
        ("training:\n  rank: 0", "training.rank: "),
        ("training:\n  trained: some", "training.trained: "),
        ("training:\n  low_rank_base: {a: 1}", "training.low_rank_base: "),
        ("training:\n  weight_rate: .nan", "training.weight_rate: "),
        ("training:\n  rates: 1", "training.rates: Extra inputs"),
        ("training: 700", "training: "),
        ("guidance: .inf", "guidance: "),
        ("- rtn", "not a YAML mapping"),
        ("!!python/object/apply:os.system ['true']", "tags are not read"),
    ],
)
def test_mistakes_are_named(write, text, words):
    with pytest.raises((RecipeError, BitsError)) as caught:
        chosen_recipe(None, write(text), None if "bits" in text.splitlines()[0] else "w3a4")
    assert words in caught.value.paragraph()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour: red", "A recipe has method, bits, weight_form, "),
        ("training: 700", "A recipe has method, bits, weight_form, "),
        ("training:\n  updats: 3", "training has updates, groups, images_per_group, "),
        ("training:\n  memory:\n    size: 3", "training.memory has capacity, sampled, "),
        ("rounding:\n  updates: 3", "rounding has iterations, "),
        ("layers:\n  - match: a\n    size: 3", "layers has match, bits, keep, "),
    ],
)
def test_what_can_be_said_there_is_told(write, text, words):
    with pytest.raises(RecipeError) as caught:
        chosen_recipe(None, write(text), "w3a4")
    assert words in caught.value.paragraph()


def test_somebody_must_say_the_bits(write):
    with pytest.raises(BitsError, match="needs --bits"):
        chosen_recipe(None, write("method: rtn"), None)


def test_a_file_changes_single_choices_of_the_training(write):
    """What it does not name stays the method's own."""
    path = write(
        """
        method: efficientdm
        bits: w4a8
        guidance: 1.5
        training:
          updates: 50
          relation: memory
        """
    )
    training = chosen_recipe(None, path, None).recipe.training
    own = recipe_of("efficientdm").training
    changes = {"updates": 50, "relation": RelationKind.MEMORY}
    assert training == own.model_copy(update=changes)
    assert own.updates != 50


def test_updates_of_the_command_go_before_those_of_the_file(write):
    path = write("bits: w3a4\ntraining: {updates: 50, rank: 7}")
    assert chosen_recipe(None, path, None, 9).recipe.training.updates == 9
    assert chosen_recipe(None, path, None, 0).recipe.training.updates == 0
    assert chosen_recipe(None, path, None, 9).recipe.training.rank == 7
    assert chosen_recipe("rtn", None, "w3a4", 9).recipe.training.updates == 9


def test_a_recipe_for_other_updates_is_otherwise_the_same():
    recipe = recipe_of("mpq-dmv2")
    other = recipe.trained_for(3)
    assert other.training.updates == 3
    assert other.trained_for(recipe.training.updates) == recipe
    assert recipe == recipe_of("mpq-dmv2")


def test_methods_train_as_published():
    """Updates and where the branches begin; rtn rounds and leaves it at that."""
    kinds = {
        name: (r.training.low_rank_base, r.training.low_rank_start, r.training.relation)
        for name, r in METHODS.items()
        if r.training.updates
    }
    assert kinds == {
        "efficientdm": ("quantized", "zero", "none"),
        "mpq-dm": ("full-precision", "zero", "time-smoothed"),
        "mpq-dmv2": ("quantized", "quantization-error", "memory"),
        "mpq-combined": ("quantized", "quantization-error", "memory"),
    }
    assert recipe_of("rtn").training.updates == 0


UNDONE = {
    "tables: shared\n": "Shared activation tables cannot be trained",
    "rounding: {}\n": "would be lost in training",
    "temporal_rounding: {}\ntraining: {low_rank_base: full-precision, low_rank_start: zero}\n":
    "would be lost in training",
}  # fmt: skip


@pytest.mark.parametrize("text", UNDONE)
def test_choices_that_undo_each_other_are_refused_where_something_is_trained(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"method: mpq-combined\n{text}", "utf-8")
    with pytest.raises(RecipeError, match=UNDONE[text]):
        chosen_recipe(None, path, "w3a4")
    assert chosen_recipe(None, path, "w3a4", 0).recipe.training.updates == 0


@pytest.mark.parametrize("training", ["trained: full", "low_rank_start: zero"])
def test_learned_rounding_is_where_these_trainings_begin(tmp_path, training):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"rounding: {{}}\ntraining: {{{training}}}\n", "utf-8")
    assert chosen_recipe("mpq-combined", path, "w3a4").recipe.learns_rounding


@pytest.mark.parametrize("stage", ["scaling", "power_of_two", "cache", "split_concatenations"])
def test_every_stage_of_the_combination_can_be_left_out(tmp_path, stage):
    path = tmp_path / "recipe.yaml"
    off = "false" if stage == "split_concatenations" else "null"
    path.write_text(f"method: mpq-combined\n{stage}: {off}\n", "utf-8")
    recipe, whole = chosen_recipe(None, path, "w3a4").recipe, recipe_of("mpq-combined")
    changed = {
        name for name in Recipe.model_fields if getattr(recipe, name) != getattr(whole, name)
    }
    assert changed == {stage}
    assert recipe.training == recipe_of("mpq-dmv2").training


def test_recipes_survive_json():
    """As in bundles, and in the record of a run that is resumed."""
    for recipe in METHODS.values():
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
