"""Recipes from YAML: what they change, and what is said of mistakes."""

from pathlib import Path

import pytest

from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.weight_form import WeightForm
from mpq_export.errors import BitsError, RecipeError
from mpq_export.methods import chosen_recipe, recipe_of
from mpq_export.precision import BitSpec


@pytest.fixture
def write(tmp_path: Path):
    """Writes a recipe file."""

    def written(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return written


def test_without_a_file_the_method_is_the_recipe():
    assert chosen_recipe("rtn", None, "w3a4").recipe == recipe_of("rtn")
    assert chosen_recipe(None, None, "w3a4").recipe == recipe_of("mpq")


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
        ("- rtn", "not a YAML mapping"),
        ("!!python/object/apply:os.system ['true']", "tags are not read"),
    ],
)
def test_mistakes_are_named(write, text, words):
    with pytest.raises((RecipeError, BitsError)) as caught:
        chosen_recipe(None, write(text), None if "bits" in text.splitlines()[0] else "w3a4")
    assert words in caught.value.paragraph()


def test_somebody_must_say_the_bits(write):
    with pytest.raises(BitsError, match="needs --bits"):
        chosen_recipe(None, write("method: rtn"), None)
