"""Folders that the workers of a run share."""

import threading
import time
from types import SimpleNamespace

import pytest
from made_once import MadeOnce


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Two of one run, as pytest-xdist starts them."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    found = []
    for name in ("popen-gw0", "popen-gw1"):
        base = tmp_path / name
        base.mkdir()
        found.append(MadeOnce(SimpleNamespace(getbasetemp=lambda base=base: base)))
    return found


def test_the_second_worker_waits_for_the_first(workers):
    begun, calls, found = threading.Event(), [], []

    def make(folder):
        calls.append(folder)
        begun.set()
        time.sleep(0.1)
        folder.mkdir()
        (folder / "file").write_text("whole")

    def ask(worker):
        folder = worker("thing", make)
        found.append((folder, (folder / "file").read_text()))

    first = threading.Thread(target=ask, args=[workers[0]])
    first.start()
    assert begun.wait(10)
    ask(workers[1])
    first.join()
    assert len(calls) == 1
    assert found == [(calls[0], "whole")] * 2


def test_what_failed_half_way_is_made_again(workers):
    def fail(folder):
        folder.mkdir()
        (folder / "half").touch()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        workers[0]("thing", fail)
    folder = workers[1]("thing", lambda folder: folder.mkdir())
    assert list(folder.iterdir()) == []


def test_a_run_without_workers_has_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "run").mkdir()
    made_once = MadeOnce(SimpleNamespace(getbasetemp=lambda: tmp_path / "run"))
    folder = made_once("thing", lambda folder: folder.mkdir())
    assert (tmp_path / "run") in folder.parents
    assert folder != made_once("other", lambda folder: folder.mkdir())
