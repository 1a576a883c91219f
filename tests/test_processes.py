"""The share of a process in work, as its launcher names it."""

import pytest

from mpq_export.errors import UserError
from mpq_export.processes import WHOLE, Share, launched_share


@pytest.fixture
def launched(monkeypatch):
    def by(**variables):
        for name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return launched_share()

    return by


def test_without_a_launcher_everything_is_ours(launched):
    assert launched() == WHOLE
    assert launched(RANK="", WORLD_SIZE="") == WHOLE
    assert list(WHOLE.of(3)) == [0, 1, 2]


def test_shares_are_disjoint_and_cover_the_work(launched):
    shares = [launched(RANK=str(n), WORLD_SIZE="3") for n in range(3)]
    assert sorted(part for share in shares for part in share.of(8)) == list(range(8))
    assert str(shares[1]) == "1-of-3"
    assert not Share(2, 3).of(2)


@pytest.mark.parametrize(
    ("number", "count"),
    [("3", "3"), ("-1", "2"), ("x", "2"), ("0", "0"), ("0", "9" * 30), ("0", "²")],
)
def test_numbers_that_cannot_be_are_refused(launched, number, count):
    with pytest.raises(UserError, match=r"RANK|WORLD_SIZE"):
        launched(RANK=number, WORLD_SIZE=count)
