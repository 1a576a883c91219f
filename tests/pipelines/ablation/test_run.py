"""The command: what it lists, what it refuses, what it says of a cell that ended."""

from dataclasses import replace

import pytest
from mpq_export.pipelines.ablation import run
from mpq_export.pipelines.ablation.grid import Part
from mpq_export.pipelines.ablation.run import CellJob, GridRun, main
from mpq_export.pipelines.ablation.workers import Ending, Outcome

from mpq_export.errors import UserError


def test_the_plan_lists_cells_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(part=["deployed"], images=100, plan=True)
    assert "digits w3a4 digits, full, seed 0: to do" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_unknown_parts_are_a_users_error():
    with pytest.raises(UserError, match="photos-ablation"):
        main(part=["digit"])


def test_a_failed_cell_is_in_every_part_that_shows_it(cell, store, tmp_path, monkeypatch, capsys):
    def failing(_work, jobs, _workers, reporter_of):
        for job in jobs:
            reporter_of(job)
            yield job, Ending(Outcome.FAILED, "It diverged.")

    monkeypatch.setattr(run, "run_all", failing)
    other = replace(cell, seed=1)
    parts = [
        Part("one", "One", [cell]),
        Part("two", "Two", [replace(cell, label="best"), other]),
    ]
    grid_run = GridRun(parts, "make ablation", store, tmp_path, 1)
    assert [job.cells for job in grid_run.jobs] == [(cell,), (other,)]
    assert CellJob((cell,), store) in grid_run.jobs
    grid_run.run()
    assert capsys.readouterr().out.count("failed. It diverged.") == 2
    for name, failures in {"one": 1, "two": 2}.items():
        text = (tmp_path / f"ablation_{name}.md").read_text("utf-8")
        assert text.count("It diverged.") == failures
        assert f"0 of {failures} cells are done." in text
