"""Jobs in their own processes: done, failed, killed, asked to stop."""

import os
import signal
import time

import fixtures
from mpq_export.pipelines.ablation.workers import Outcome, run_all

from mpq_export.errors import Interrupted, RecipeError
from mpq_export.training.interruption import stop_wish


def work(job, progress):
    progress.start(job, 2)
    progress.advance()
    progress.note(f"{os.getpid()}")
    if job == "mistaken":
        raise RecipeError("No such thing")
    if job == "broken":
        raise RuntimeError("by itself")
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "endless":
        with stop_wish() as wished:
            while not wished():
                time.sleep(0.01)
        raise Interrupted("Stopped in good order")


class Listening(fixtures.SilentProgress):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_every_job_ends_in_its_own_process():
    reporter = Listening()
    jobs = ["good", "mistaken", "broken", "killed"]
    endings = dict(run_all(work, jobs, 2, lambda _: reporter))
    assert sorted(reporter.tasks) == sorted(jobs)
    assert len({*reporter.notes, str(os.getpid())}) == 5
    assert endings["good"].outcome is Outcome.DONE
    assert {endings[job].outcome for job in jobs[1:]} == {Outcome.FAILED}
    assert endings["mistaken"].why == "No such thing."
    assert endings["broken"].why.splitlines()[-1] == "RuntimeError: by itself"
    assert f"{-signal.SIGKILL}" in endings["killed"].why


def test_leaving_early_stops_what_runs():
    reporter = Listening()
    ended = run_all(work, ["endless", "good", "good too"], 2, lambda _: reporter)
    assert next(ended)[0] != "endless"
    while "endless" not in reporter.tasks:
        assert next(ended)
    ended.close()
    assert len(reporter.notes) >= 2
    assert not any(_is_running(int(note)) for note in reporter.notes)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
