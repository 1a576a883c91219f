"""A result is found again exactly while everything that decided it is the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mpq_export.pipelines.ablation import keys
from mpq_export.pipelines.ablation.grid import Measure, grid
from mpq_export.pipelines.ablation.keys import EPOCH, keys_of

from mpq_export.errors import CheckpointError
from mpq_export.methods import recipe_of

RESULTS = Path(__file__).parents[3] / "docs/results"


def retrained(cell, **changes):
    training = cell.recipe.training.model_copy(update=changes)
    return replace(cell, recipe=cell.recipe.model_copy(update={"training": training}))


BUNDLE_CHANGES = {
    "bits": lambda cell: replace(cell, bits="w2a4"),
    "seed": lambda cell: replace(cell, seed=1),
    "steps": lambda cell: replace(cell, num_steps=4),
    "updates": lambda cell: retrained(cell, updates=4),
    "rank": lambda cell: retrained(cell, rank=8),
    "smoothing": lambda cell: replace(
        cell, recipe=cell.recipe.model_copy(update={"smoothing": True})
    ),
}


@pytest.mark.parametrize("change", BUNDLE_CHANGES.values(), ids=BUNDLE_CHANGES)
def test_what_decides_the_bundle(cell, change):
    before, after = keys_of(cell), keys_of(change(cell))
    assert before.bundle != after.bundle
    assert before.result != after.result


@pytest.mark.parametrize("change", [{"num_images": 71}, {"measure": Measure.DEPLOYMENT}])
def test_what_decides_the_measurement_alone(cell, change):
    """A bundle is not trained again to be judged otherwise."""
    before, after = keys_of(cell), keys_of(replace(cell, **change))
    assert before.bundle == after.bundle
    assert before.result != after.result


def test_what_decides_nothing(cell):
    recipe = cell.recipe.model_copy(update={"summary": "in other words"})
    assert keys_of(cell) == keys_of(replace(cell, label="best", recipe=recipe))
    untrained = replace(cell, recipe=recipe_of("rtn"))
    assert keys_of(untrained) == keys_of(retrained(untrained, groups=3))


def test_weights_and_epoch_decide_everything(cell, tmp_path, monkeypatch):
    folder = tmp_path / "copy" / cell.checkpoint.name
    shutil.copytree(cell.checkpoint, folder)
    copy, before = replace(cell, checkpoint=folder), keys_of(cell)
    assert keys_of(copy) == before
    (weights,) = folder.rglob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = keys_of(copy)
    monkeypatch.setattr(keys, "EPOCH", keys.EPOCH + 1)
    later = keys_of(cell)
    for name in ("bundle", "reference", "result"):
        assert len({getattr(k, name) for k in (before, changed, later)}) == 3, name


def test_a_younger_field_at_its_default_is_not_in_the_name(cell, monkeypatch):
    before = keys_of(cell)
    monkeypatch.setattr(keys, "SINCE_EPOCH", ("eta", "training.output_bias"))
    younger = keys_of(cell)
    assert younger != before
    assert keys_of(replace(cell, recipe=cell.recipe.model_copy(update={"eta": 0.5}))) != younger
    output_bias = cell.recipe.training.output_bias
    assert keys_of(retrained(cell, output_bias=not output_bias)) != younger


def test_a_younger_field_of_a_stage_counts_where_there_is_that_stage(cell):
    """Votes of more images than there are now, and no stage at all."""
    own = replace(cell, recipe=recipe_of("dmq"))
    before, stage = keys_of(own), own.recipe.power_of_two
    for field, value in (("samples", stage.samples), ("samples", 7), ("agreement", 0.5)):
        changed = stage.model_copy(update={field: value})
        recipe = own.recipe.model_copy(update={"power_of_two": changed})
        same = value == getattr(stage, field)
        assert (keys_of(replace(own, recipe=recipe)) == before) is same
    without = own.recipe.model_copy(update={"power_of_two": None, "scaling": None})
    assert keys_of(replace(own, recipe=without)) != before


def test_published_cells_keep_their_names():
    """Whoever adds a field to recipes names it in ``SINCE_EPOCH``; whoever changes what a cell
    means raises ``EPOCH``."""
    reports = [json.loads(path.read_bytes()) for path in RESULTS.glob("ablation_*.json")]
    published = {
        entry["key"] for report in reports if report["epoch"] == EPOCH for entry in report["cells"]
    }
    planned = {keys_of(cell).result for part in grid().values() for cell in part.cells}
    assert published & planned, "every published cell would be measured again"


def test_a_checkpoint_that_is_not_there_is_named(cell, tmp_path):
    with pytest.raises(CheckpointError, match="make digits-dit-checkpoint"):
        keys_of(replace(cell, family="digits_dit", checkpoint=tmp_path))
