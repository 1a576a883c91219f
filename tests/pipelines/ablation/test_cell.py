"""One cell: cached, stopped and gone on with, judged."""

import json
import signal
from dataclasses import replace

import fixtures
import pytest
from mpq_export.pipelines.ablation.cell import run_cell
from mpq_export.pipelines.ablation.grid import Measure
from mpq_export.pipelines.ablation.keys import keys_of
from mpq_export.pipelines.ablation.store import CellBusy

from mpq_export.errors import Interrupted


class StoppedInTraining(fixtures.SilentProgress):
    """Asks to stop, as Ctrl-C does, in the second update; reads what a kill there would leave."""

    updates = 0

    def __init__(self, bundle):
        super().__init__()
        self.bundle = bundle

    def note(self, text):
        self.updates += 1
        if self.updates == 2:
            seconds = self.bundle.with_name(f"{self.bundle.name}.seconds.json")
            self.left_by_a_kill = json.loads(seconds.read_text())
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_cell_goes_on_and_is_judged(cell, store):
    stopped = StoppedInTraining(store.bundle(keys_of(cell).bundle))
    with pytest.raises(Interrupted, match="2 of 3 updates"):
        run_cell(cell, store, stopped)
    assert stopped.left_by_a_kill["attempts"] == 1
    assert store.figures(keys_of(cell).result) is None
    again = fixtures.SilentProgress()
    run_cell(cell, store, again)
    assert "calibrate" not in again.tasks

    figures = store.figures(keys_of(cell).result)
    assert figures["attempts"] == 2
    assert figures["computing_seconds"] > 0
    assert figures["frechet_full_precision"] > 0
    assert 0 < figures["relative_error"] <= figures["worst_step_relative_error"]
    assert figures["average_weight_bits"] == 3
    assert figures["loss_peak"] >= figures["loss_last"] > 0
    assert store.figures(keys_of(cell).reference)["frechet_unpaired"] > 0

    nothing = fixtures.SilentProgress()
    run_cell(cell, store, nothing)
    assert nothing.tasks == []

    # The same bundle judged another way is not made again.
    deployed, judging = replace(cell, measure=Measure.DEPLOYMENT), fixtures.SilentProgress()
    run_cell(deployed, store, judging)
    assert "train" not in judging.tasks
    report = store.figures(keys_of(deployed).result)
    assert report["nodes_exact"] == report["nodes"] == figures["layers_quantized"]
    assert report["frechet_full_precision"] == pytest.approx(figures["frechet_full_precision"])
    assert report["psnr_torch"] > report["psnr_full_precision"]


def test_two_processes_do_not_work_on_one_cell(cell, store):
    with (
        store.locked(keys_of(cell).bundle, wait=False),
        pytest.raises(CellBusy, match="Another process"),
    ):
        run_cell(cell, store, fixtures.SilentProgress())
    assert store.figures(keys_of(cell).result) is None
