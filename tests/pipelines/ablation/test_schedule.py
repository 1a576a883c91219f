"""What is left to do, in which order, and how long it takes."""

from dataclasses import replace

import numpy as np
import pytest
from mpq_export.pipelines.ablation.grid import Measure
from mpq_export.pipelines.ablation.keys import keys_of
from mpq_export.pipelines.ablation.schedule import jobs_of, plan_of, seconds_left
from mpq_export.pipelines.ablation.store import Record


def finish(store, cell, seconds):
    figures = {"making_seconds": seconds, "measuring_seconds": 1.0}
    store.write(keys_of(cell).result, Record(figures, np.zeros((0, 1, 1, 1), np.float32)))


def test_cells_are_done_once_and_those_of_a_bundle_in_turn(cell, store, tmp_path):
    again, other = replace(cell, label="best"), replace(cell, bits="w2a4")
    deployed = replace(cell, measure=Measure.DEPLOYMENT)
    absent = replace(cell, checkpoint=tmp_path)
    planned = plan_of([cell, other, again, absent, deployed])
    assert [entry.cell for entry in planned] == [cell, other, absent, deployed]
    assert jobs_of(planned, store) == [(cell, deployed), (other,)]
    finish(store, cell, 1.0)
    assert jobs_of(planned, store) == [(other,), (deployed,)]


def test_time_is_expected_from_the_likest_cells(cell, store):
    untrained = replace(cell, recipe=cell.recipe.trained_for(0))
    cells = [cell, replace(cell, seed=1), untrained, replace(untrained, seed=1)]
    planned = plan_of(cells)
    assert seconds_left(planned, store, 1) is None
    finish(store, cells[0], 99.0)
    assert seconds_left(planned, store, 2) == pytest.approx(3 * 100 / 2)
    finish(store, cells[2], 9.0)
    assert seconds_left(planned, store, 1) == pytest.approx(110)
