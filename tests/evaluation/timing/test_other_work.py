"""What other programs took of the processors, from the system's own count."""

import os

import pytest

from mpq_export.evaluation.timing.other_work import OtherWork, busy_note, is_busy


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """Ticks of user, system, idle and stolen time; this program's own are 100 of them."""
    ticks = os.sysconf("SC_CLK_TCK")
    own = iter([0.0, 100 / ticks])
    monkeypatch.setattr(os, "times", lambda: (next(own), 0, 0, 0, 0))

    def write(user, system, idle, stolen=0):
        idle_one = "1000 0 1000 90000 0 0 0 0 0 0"
        lines = [
            f"cpu  {2 * user} 0 {system} {9 * idle} 5 0 0 {stolen} 77 77",
            f"cpu0 {user} 0 0 {idle} 5 0 0 0 77 77",
            f"cpu1 {idle_one}",
            f"cpu2 0 0 {system} 0 0 0 0 {stolen} 0 0",
            f"cpu20 {idle_one}",
            "intr 1 2 3",
        ]
        (tmp_path / "stat").write_text("\n".join(lines) + "\n")
        return tmp_path / "stat"

    return write


def test_what_is_not_ours_is_of_others(stat):
    watch = OtherWork((0, 2), stat(1000, 500, 9000))
    stat(1150, 520, 9230)
    assert watch.share() == pytest.approx(70 / 400)


def test_time_that_the_host_took_is_of_others(stat):
    watch = OtherWork((0, 2), stat(1000, 500, 9000))
    stat(1100, 500, 9100, stolen=50)
    assert watch.share() == pytest.approx(50 / 250)


def test_our_own_work_is_of_nobody_else(stat):
    watch = OtherWork((0, 2), stat(1000, 500, 9000))
    stat(1098, 500, 9000)  # the system counts in whole ticks
    assert watch.share() == 0


def test_a_system_that_counts_all_together_is_taken_at_that(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "times", lambda: (0, 0, 0, 0, 0))
    (tmp_path / "stat").write_text("cpu  100 0 0 100 0 0 0 0 0 0\n")
    watch = OtherWork((0,), tmp_path / "stat")
    (tmp_path / "stat").write_text("cpu  150 0 0 250 0 0 0 0 0 0\n")
    assert watch.share() == pytest.approx(0.25)


def test_a_busy_machine_is_said():
    assert busy_note(0.02) == ""
    assert busy_note(0.63).startswith("Other programs took 63%")
    assert not is_busy(0.1)
    assert is_busy(0.11)


def test_the_system_itself_can_be_asked():
    assert 0 <= OtherWork(sorted(os.sched_getaffinity(0))).share() <= 1
