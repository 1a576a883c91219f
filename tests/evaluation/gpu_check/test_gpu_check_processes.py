"""What ``make gpu-check`` starts: exactness, sanitizers, marked tests."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from mpq_export.evaluation.gpu_check import exactness
from mpq_export.evaluation.gpu_check.report import markdown, passed

NEVER = float("inf")
"""A deadline."""


@pytest.fixture
def answers(monkeypatch):
    """Processes that leave these cases, and end and say as asked."""

    def answer(code, said, differing=None):
        def run(command, _seconds):
            if differing is not None:
                out = command[command.index("--out") + 1]
                with open(out, "w", encoding="utf-8") as stream:
                    json.dump({"cases": {"golden": 3}, "differing": differing}, stream)
            return code, said

        monkeypatch.setattr(exactness, "_run", run)

    monkeypatch.setattr(exactness.shutil, "which", lambda *_, **__: "compute-sanitizer")
    return answer


def test_kernels_that_differ_or_die_are_noticed(answers):
    answers(1, "", ["a"])
    assert not exactness.exactness(True, NEVER)["exact"]
    answers(-11, "no more")
    died = exactness.exactness(True, NEVER)
    assert not died["exact"]
    assert died["failure"] == "exit code -11: no more"


def test_what_the_sanitizer_found_counts_and_what_it_did_not_say_does_not(answers, monkeypatch):
    for name, words in (
        ("memcheck", "========= ERROR SUMMARY: {} errors"),
        ("racecheck", "========= RACECHECK SUMMARY: {} hazards displayed (1 errors, 1 warnings)"),
    ):
        answers(0, words.format(0), [])
        sanitizers = exactness.exactness(False, NEVER)["sanitizers"]
        assert sanitizers[name]["exact"]
        answers(0, words.format(2), [])
        sanitizers = exactness.exactness(False, NEVER)["sanitizers"]
        assert (sanitizers[name]["errors"], sanitizers[name]["exact"]) == (2, False)
        (other,) = set(sanitizers) - {name}
        assert "no summary" in sanitizers[other]["skipped"]
    answers(1, "no such device", [])
    for sanitizer in exactness.exactness(False, NEVER)["sanitizers"].values():
        assert "no such device" in sanitizer["skipped"]

    def late(command, seconds):
        raise subprocess.TimeoutExpired(command, seconds)

    monkeypatch.setattr(exactness, "_run", late)
    assert "not done after" in exactness._sanitized("memcheck", NEVER)["skipped"]
    assert "not done after" in exactness._by_driver(NEVER)["skipped"]


def test_what_takes_too_long_leaves_nothing_behind(tmp_path):
    """A sanitizer's own child would run beside what is timed next."""
    child = f"echo $$ > {tmp_path / 'child'}; exec sleep 60"
    with pytest.raises(subprocess.TimeoutExpired):
        exactness._run(["sh", "-c", f"sh -c '{child}' & wait"], 1)
    number = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{number}/stat")
    for _ in range(100):  # a process that is killed is gone when its new parent has taken notice
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child goes on")


def test_a_sanitized_run_that_dies_is_quoted(emulated, answers):
    answers(1, "gone\nERROR SUMMARY: 0 errors")
    sanitizer = exactness._sanitized("memcheck", NEVER)
    assert not sanitizer["exact"]
    result, _ = emulated
    died = {**result, "exactness": {**result["exactness"], "sanitizers": {"memcheck": sanitizer}}}
    assert not passed(died)
    assert "**failed**: exit code 1: gone" in markdown(died)


def test_marked_tests_are_found_and_their_summary_is_read(answers):
    answers(0, "......\n6 passed in 9.1s")
    assert exactness.marked_tests(False, NEVER) == {
        "passed": True, "summary": "6 passed in 9.1s",
    }  # fmt: skip
    for code, said in ((1, "1 failed, 5 passed in 9s"), (0, "6 skipped in 1s")):
        answers(code, said)
        assert not exactness.marked_tests(False, NEVER)["passed"]


def test_processes_get_no_more_time_than_is_left(monkeypatch):
    given = []

    def run(_command, seconds):
        given.append(seconds)
        raise subprocess.TimeoutExpired("cases", seconds)

    monkeypatch.setattr(exactness, "_run", run)
    monkeypatch.setattr(exactness.shutil, "which", lambda *_, **__: "compute-sanitizer")
    for part in (exactness.exactness, exactness.marked_tests):
        with pytest.raises(subprocess.TimeoutExpired):
            part(False, time.monotonic() + 40)
    exactness._sanitized("memcheck", time.monotonic() + 40)
    exactness._by_driver(time.monotonic() + 40)
    assert len(given) == 4
    assert all(30 < seconds <= 40 for seconds in given)
