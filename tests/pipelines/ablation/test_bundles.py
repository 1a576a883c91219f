"""Bundles of a part by name: made once, taken from the grid, linked to."""

from dataclasses import replace

import fixtures
import pytest
from mpq_export.pipelines.ablation.bundles import BundleJob, link, make_missing, named_cells
from mpq_export.pipelines.ablation.grid import grid
from mpq_export.pipelines.ablation.keys import keys_of

from mpq_export.bundle import read_bundle
from mpq_export.errors import UserError
from mpq_export.evaluation.bench.rows import bundle_rows
from mpq_export.methods import recipe_of
from mpq_export.runtimes.names import Runtime


@pytest.fixture
def rounded(cell):
    """Needs no training."""
    return replace(cell, recipe=recipe_of("rtn"), label="rtn, to nearest", bits="w4a8")


def test_a_bundle_of_the_grid_is_linked_to_by_its_name(rounded, store, tmp_path):
    BundleJob(rounded, store).run(fixtures.SilentProgress())
    assert make_missing([rounded], store, 1) == {}, "nothing is left to make"
    folder = tmp_path / "named"
    for _ in range(2):
        link(named_cells([rounded]), store, folder)
    bundle = read_bundle(folder / "rtn-to-nearest-w4a8")
    assert bundle.path.resolve() == store.bundle(keys_of(rounded).bundle).resolve()
    (row,) = bundle_rows([bundle], [Runtime.ORT])
    assert row.name == "rtn-to-nearest-w4a8"
    assert row.file_bytes > 0


def test_what_is_not_a_link_is_left_alone(rounded, store, tmp_path):
    own = tmp_path / "rtn-to-nearest-w4a8"
    own.mkdir()
    with pytest.raises(UserError, match="where a link"):
        link(named_cells([rounded]), store, tmp_path)
    assert own.is_dir()


def test_a_bundle_that_cannot_be_made_says_why(rounded, store, capsys):
    failures = make_missing([replace(rounded, bits="w9a4")], store, 1)
    (why,) = failures.values()
    assert "9-bit weights" in why
    assert "failed" in capsys.readouterr().out


def test_names_tell_seeds_apart_where_there_are_several(cell):
    assert list(named_cells([cell])) == ["mpq-dmv2-w3a4"]
    several = named_cells([cell, replace(cell, seed=1)])
    assert list(several) == ["mpq-dmv2-w3a4-seed0", "mpq-dmv2-w3a4-seed1"]
    with pytest.raises(UserError, match="Two bundles"):
        named_cells([cell, replace(cell, num_images=80)])


def test_every_method_is_in_the_comparison_at_every_width():
    cells = grid()["methods"].cells
    methods = {"rtn", "dmq", "tfmq-dm", "mpq-dm", "mpq-dmv2", "mpq-combined"}
    assert {cell.recipe.method for cell in cells} == methods
    assert {cell.bits for cell in cells} == {"w4a8", "w3a4", "w2a4"}
    assert len(named_cells(cells)) == len(cells) == 18


def test_the_comparison_shares_its_bundles_with_other_parts():
    parts = grid()
    names = ("post-training", "photos", "combination")
    made = {keys_of(cell).bundle for name in names for cell in parts[name].cells}
    own = {cell: keys_of(cell).bundle in made for cell in parts["methods"].cells}
    trained = {"mpq-dm", "mpq-dmv2", "mpq-combined"}
    assert [cell.label for cell, there in own.items() if cell.bits != "w4a8" and not there] == 2 * [
        "rtn",
        "dmq",
        "tfmq-dm",
    ]
    assert {cell.label for cell, there in own.items() if cell.bits == "w4a8" and not there} == (
        trained
    )
