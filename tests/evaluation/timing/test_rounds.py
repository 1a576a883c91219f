"""The protocol between the parent and its workers."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mpq_export.evaluation.cpu_benchmark.backends import BACKENDS
from mpq_export.evaluation.timing import rounds
from mpq_export.evaluation.timing.rounds import Cell, Worker, WorkerFailed, measure_in_turns
from mpq_export.evaluation.timing.steps import Step
from mpq_export.evaluation.timing.worker import _LEAST_SECONDS, _peak_bytes, _Session


class ScriptedWorker:
    """Answers rounds with given times; an exception among them is raised."""

    def __init__(self, name, times, turns):
        self.name, self.times, self.turns = name, iter(times), turns

    def ask(self, do):
        if do == "memory":
            return {"peak_bytes": 7}
        self.turns.append(self.name)
        time = next(self.times)
        if isinstance(time, Exception):
            raise time
        return {"ms": time, "single_ms": [time - 1, time + 1]}


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(rounds, "_REST_SECONDS", 0)


def test_turns_rotate():
    turns, cells = [], [Cell("a"), Cell("b")]
    workers = [ScriptedWorker("a", [1.0, 2.0], turns), ScriptedWorker("b", [3.0, 4.0], turns)]
    measure_in_turns(workers, cells, 2)
    assert turns == ["a", "b", "b", "a"]
    assert [cell.ms for cell in cells] == [[1, 2], [3, 4]]
    assert [cell.single_ms for cell in cells] == [[0, 2, 1, 3], [2, 4, 3, 5]]
    assert [cell.peak_bytes for cell in cells] == [7, 7]


def test_a_worker_that_fails_is_left_out_and_says_why():
    turns, cells = [], [Cell("a"), Cell("b")]
    failing = ScriptedWorker("a", [1.0, WorkerFailed("out of memory")], turns)
    measure_in_turns([failing, ScriptedWorker("b", [1.0] * 4, turns)], cells, 4)
    assert (cells[0].failure, cells[0].ms, cells[0].peak_bytes) == ("out of memory", [], 0)
    assert cells[1].failure is None
    assert len(cells[1].ms) == 4
    assert turns.count("a") == 2


def test_a_model_that_cannot_be_opened_is_an_answer(tmp_path):
    np.savez(tmp_path / "inputs.npz", sample=np.zeros((1, 1, 2, 2), np.float32))
    with (
        Worker([0]) as worker,
        pytest.raises(WorkerFailed, match=r"model\.onnx"),
    ):
        worker.load(BACKENDS["ort-fp32"].opener, tmp_path, tmp_path / "inputs.npz", {"threads": 1})


def test_a_worker_that_dies_is_told_from_one_that_answers(monkeypatch):
    monkeypatch.setattr(rounds, "_WORKER", "no.such.module")
    with (
        Worker([0]) as worker,
        pytest.raises(WorkerFailed, match=r"process ended with status 1 at 'round': .*no\.such"),
    ):
        worker.ask("round")


def test_the_last_words_of_a_process_that_crashed_are_said(tmp_path, monkeypatch):
    opener = """
        import os, signal, sys

        def open_step(folder, inputs):
            for number in range(9):
                print(f"line {number}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
    """
    (tmp_path / "crashing_opener.py").write_text(textwrap.dedent(opener))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    np.savez(tmp_path / "inputs.npz", sample=np.zeros(1, np.float32))
    with Worker([0]) as worker, pytest.raises(WorkerFailed) as failed:
        worker.load("crashing_opener", tmp_path, tmp_path / "inputs.npz", {})
    assert str(failed.value) == (
        "Its process ended with status -11 at 'load': line 6 / line 7 / line 8"
    )


def test_importing_the_worker_imports_no_library():
    code = (
        "import sys, mpq_export.evaluation.timing.worker; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'diffusers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_peak_memory_is_the_high_water_mark():
    status = "Name:\tpython\nVmHWM:\t    1500 kB\nVmRSS:\t     900 kB\n"
    assert _peak_bytes(status) == 1500 * 1024


def clocked_round(monkeypatch, seconds):
    """What a round says of a step that takes so long, and how often it was run."""
    now, runs = [0.0], []

    def run():
        runs.append(1)
        now[0] += seconds

    monkeypatch.setattr("mpq_export.evaluation.timing.worker.time.perf_counter", lambda: now[0])
    session = _Session()
    session.step = Step(run)
    return session.round()["ms"], len(runs)


def test_a_round_is_the_mean_of_steps_that_fill_a_tenth_of_a_second(monkeypatch):
    assert clocked_round(monkeypatch, _LEAST_SECONDS / 16) == (pytest.approx(100 / 16), 1 + 16)


def test_single_steps_of_a_round_are_told(monkeypatch):
    """A tail that the mean hides: every fourth step is eight times as long."""
    now, runs = [0.0], []

    def run():
        runs.append(1)
        now[0] += 2**-4 if len(runs) % 4 == 0 else 2**-7

    monkeypatch.setattr("mpq_export.evaluation.timing.worker.time.perf_counter", lambda: now[0])
    session = _Session()
    session.step = Step(run)
    answer = session.round()
    assert answer["single_ms"] == [7.8125, 7.8125, 62.5, 7.8125, 7.8125, 7.8125]
    assert answer["ms"] == pytest.approx(101.5625 / 6)


def test_a_long_step_is_timed_once(monkeypatch):
    assert clocked_round(monkeypatch, 3.0) == (pytest.approx(3000), 1 + 1)


def test_libraries_are_imported_before_the_clock_and_may_print(tmp_path, monkeypatch):
    opener = """
        import os, time
        from mpq_export.evaluation.timing.steps import Step

        def import_libraries(slow):
            print("a banner")
            time.sleep(slow)

        def open_step(folder, inputs, slow):
            os.write(1, b"another one\\n")
            return Step(lambda: print("a step"), "as said")
    """
    (tmp_path / "printing_opener.py").write_text(textwrap.dedent(opener))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    np.savez(tmp_path / "inputs.npz", sample=np.zeros(1, np.float32))
    with Worker([0]) as worker:
        answer = worker.load("printing_opener", tmp_path, tmp_path / "inputs.npz", {"slow": 0.3})
        assert answer["runs_as"] == "as said"
        assert answer["seconds"] < 0.2
        assert worker.ask("warm up", steps=2) == {}


def test_memory_of_a_gpu_is_told_after_the_warm_up():
    session, order = _Session(), []

    def taken():
        order.append("asked")
        return 5

    session.step = Step(lambda: order.append("step"), gpu_memory=taken)
    assert session.warm_up(2) == {"gpu_memory": 5}
    assert order == ["step", "step", "asked"]
    session.step = Step(lambda: None)
    assert session.warm_up(1) == {}
