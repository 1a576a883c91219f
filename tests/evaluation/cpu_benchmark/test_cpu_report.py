"""Rows and the table."""

from mpq_export.evaluation.cpu_benchmark.backends import BACKENDS, OURS
from mpq_export.evaluation.cpu_benchmark.models import BenchmarkModel
from mpq_export.evaluation.cpu_benchmark.report import (
    markdown,
    merged,
    read_rows,
    rows_of,
    write_report,
)
from mpq_export.evaluation.cpu_benchmark.sittings import Sitting, plan
from mpq_export.evaluation.timing.rounds import Cell

SETTING = {"machine": {"processor": "P"}, "threads": 2, "rounds": 2}
PEERS = (BACKENDS["ort-fp32"], BACKENDS["torch-int8"])
SITTING = Sitting(BenchmarkModel("small", (1,)), 1, (*OURS, *PEERS))


def cells(peer_ms=(4.0, 8.0)):
    return [
        Cell("ours-w3a4", "native kernels", 10**6, 0.5, 10**8, [1.0, 2.0]),
        Cell("ours-w4a8", "native kernels", 10**6, 0.5, 10**8, [2.0, 4.0]),
        Cell("ort-fp32", "", 8 * 10**6, 0.1, 2 * 10**8, list(peer_ms)),
        Cell("torch-int8", failure="it has no such operator"),
    ]


def test_rows_hold_ratios_to_ours():
    rows = {row.backend: row for row in rows_of(SITTING, cells())}
    assert rows["ort-fp32"].speedups == {"ours-w3a4": 4, "ours-w4a8": 2}
    assert rows["ours-w3a4"].speedups == {"ours-w3a4": 1, "ours-w4a8": 0.5}
    assert rows["torch-int8"].step is None
    assert rows["torch-int8"].failure == "it has no such operator"


def test_the_table_shows_what_ran_and_says_why_the_rest_did_not():
    text = markdown(rows_of(SITTING, cells()), SETTING)
    assert (
        "| small | 1 | ONNX Runtime fp32 | 6.00 (4.40 to 7.60) | 4.00x | 2.00x | 8.0 | 200 | 0.10 |"
        in text
    )
    assert "| small | 1 | torch int8 (pt2e, x86 Inductor) | not run |" in text
    assert "did not run: it has no such operator." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_rows_are_kept_and_replaced_across_runs(tmp_path):
    write_report(tmp_path, rows_of(SITTING, cells()), SETTING)
    old = read_rows(tmp_path, SETTING)
    assert old == rows_of(SITTING, cells())
    other = Sitting(BenchmarkModel("other", (1,)), 1, SITTING.backends)
    both = merged(old, rows_of(other, cells()))
    assert len(both) == 8
    again = merged(both, rows_of(SITTING, cells(peer_ms=(2.0, 2.0))))
    assert len(again) == 8
    (row,) = [r for r in again if r.key == ("small", 1, "ort-fp32")]
    assert row.step.median == 2


def test_rows_of_another_machine_are_not_kept(tmp_path):
    write_report(tmp_path, rows_of(SITTING, cells()), SETTING)
    assert read_rows(tmp_path, {**SETTING, "machine": {"processor": "Q"}}) == []


def test_peers_of_a_large_model_come_one_at_a_time():
    large = BenchmarkModel("large", (2,), in_pairs=True)
    small = BenchmarkModel("small", (1, 2))
    sittings = list(plan([large, small], list(BACKENDS.values())))
    peers = len(BACKENDS) - len(OURS)
    assert [s.model.name for s in sittings] == ["large"] * peers + ["small"] * 2
    assert all(set(OURS) <= set(s.backends) for s in sittings)
    assert all(len(s.backends) == len(OURS) + 1 for s in sittings[:peers])
