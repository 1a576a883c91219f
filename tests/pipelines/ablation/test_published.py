"""Cells that a report holds are done, on whatever machine."""

from dataclasses import replace

import pytest
from ablation_records import labelled, write
from mpq_export.pipelines.ablation.grid import Part
from mpq_export.pipelines.ablation.keys import keys_of
from mpq_export.pipelines.ablation.published import adopt, published_cells
from mpq_export.pipelines.ablation.report import PartReport
from mpq_export.pipelines.ablation.run import main
from mpq_export.pipelines.ablation.schedule import Planned
from mpq_export.pipelines.ablation.store import Store

from mpq_export.errors import UserError


@pytest.fixture
def part(cell):
    return Part("digits", "Digits", [labelled(cell, "mpq-dm"), labelled(cell, "mpq-dmv2")])


@pytest.fixture
def results(part, store, tmp_path):
    """Reports of the first cell, its samples drawn."""
    write(store, part.cells[0], 0.4)
    PartReport.of(part, "make ablation", store, {}).write(tmp_path / "results", store)
    return tmp_path / "results"


def test_the_same_report_comes_of_them(part, store, results, tmp_path):
    elsewhere = Store(tmp_path / "elsewhere")
    planned = [Planned.of(cell) for cell in part.cells]
    assert adopt(results, planned, elsewhere) == 1
    assert [entry.is_done(elsewhere) for entry in planned] == [True, False]
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    assert "ablation_digits_samples.png" in before
    PartReport.of(part, "make ablation", elsewhere, {}).write(results, elsewhere)
    after = {path.name: path.read_bytes() for path in results.iterdir()}
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"ablation_digits.png"}  # a chart's metadata may differ
    assert adopt(results, planned, elsewhere) == 0


def test_what_was_measured_here_is_not_replaced(part, store, results):
    key = keys_of(part.cells[0]).result
    text = (results / "ablation_digits.json").read_text("utf-8")
    (results / "ablation_digits.json").write_text(text.replace("0.4", "0.7"), "utf-8")
    assert adopt(results, [Planned.of(part.cells[0])], store) == 0
    assert store.figures(key)["frechet_full_precision"] == 0.4


def test_full_precision_is_drawn_where_its_figures_came_without_images(part, results, tmp_path):
    elsewhere = Store(tmp_path / "elsewhere")
    adopt(results, map(Planned.of, part.cells), elsewhere)
    reference = keys_of(part.cells[0]).reference
    assert elsewhere.figures(reference) is not None
    assert not elsewhere.has_images(reference)


def test_another_cell_is_not_taken_for_it(part, results, tmp_path):
    other = replace(part.cells[0], bits="w2a4")
    assert adopt(results, [Planned.of(other)], Store(tmp_path / "elsewhere")) == 0


@pytest.mark.parametrize("content", ["{}", '{"cells": [{}]}', '{"cells": [1]}', "[]", "{"])
def test_a_foreign_report_is_named(content, tmp_path):
    (tmp_path / "ablation_x.json").write_text(content)
    with pytest.raises(UserError, match=r"ablation_x\.json"):
        published_cells(tmp_path)


def test_the_plan_says_what_is_published(tmp_path, capsys):
    main(part=["photos"], out=tmp_path, plan=True)
    assert ": published" in capsys.readouterr().out
    main(part=["photos"], out=tmp_path, anew=True, plan=True)
    assert ": published" not in capsys.readouterr().out
