"""Finished parts of a run: found again whole, refused when damaged."""

import pytest
import torch

from mpq_export.errors import UserError
from mpq_export.reconstruction.finished import KeptParts, NothingKept, TensorLayout

CODES = {"codes": TensorLayout(torch.uint8, (2, 3), 0, torch.tensor([2, 5]))}
FOUR = {"codes": TensorLayout(torch.float32, (4,), 0.5, 4)}


def test_a_part_is_found_again_by_its_name(tmp_path):
    kept = KeptParts(tmp_path / "parts")
    assert kept.load("rounding a", CODES) is None
    kept.save("rounding a", {"codes": torch.arange(6, dtype=torch.uint8).view(2, 3)})
    kept.save("rounding b", {"codes": torch.zeros(1)})
    again = KeptParts(tmp_path / "parts").load("rounding a", CODES)
    assert torch.equal(again["codes"], torch.arange(6, dtype=torch.uint8).view(2, 3))
    assert kept.load("rounding c", CODES) is None


def test_damage_is_told_with_the_file(tmp_path):
    kept = KeptParts(tmp_path / "parts")
    kept.save("a", {"codes": torch.zeros(4)})
    (file,) = (tmp_path / "parts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="cannot be read") as caught:
        kept.load("a", FOUR)
    assert caught.value.where == str(file)
    kept.save("b", {"codes": torch.zeros(4)})
    (other,) = (path for path in (tmp_path / "parts").iterdir() if path != file)
    other.replace(file)
    with pytest.raises(UserError, match="It is of 'b', not of 'a'"):
        kept.load("a", FOUR)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"codes": torch.zeros(5)}, "not those of that part"),
        ({"codes": torch.zeros(4, dtype=torch.float64)}, "not those of that part"),
        ({"other": torch.zeros(4)}, "not those of that part"),
        ({}, "not those of that part"),
        ({"codes": torch.ones(4), "more": torch.ones(1)}, "not those of that part"),
        ({"codes": torch.ones(4, dtype=torch.bool)}, "not those of that part"),
        ({"codes": torch.tensor([1, 2, torch.nan, 4])}, "'codes' is out of range"),
        ({"codes": torch.tensor([1, 2, torch.inf, 4])}, "'codes' is out of range"),
        ({"codes": torch.tensor([1, 2, 0.25, 4])}, "'codes' is out of range"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, tensors, why):
    kept = KeptParts(tmp_path / "parts")
    kept.save("a", tensors)
    with pytest.raises(UserError, match=why) as caught:
        kept.load("a", FOUR)
    assert caught.value.where.startswith(str(tmp_path / "parts"))


def test_every_row_has_its_own_greatest_number(tmp_path):
    kept = KeptParts(tmp_path / "parts")
    kept.save("a", {"codes": torch.tensor([[0, 2, 1], [5, 0, 3]], dtype=torch.uint8)})
    assert kept.load("a", CODES)["codes"].max() == 5
    kept.save("a", {"codes": torch.tensor([[0, 3, 1], [5, 0, 3]], dtype=torch.uint8)})
    with pytest.raises(UserError, match="out of range"):
        kept.load("a", CODES)


def test_nothing_is_kept():
    NothingKept().save("a", {})
    assert NothingKept().load("a", FOUR) is None
