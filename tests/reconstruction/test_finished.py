"""Finished parts of a run: found again whole, refused when damaged."""

import pytest
import torch

from mpq_export.errors import UserError
from mpq_export.reconstruction.finished import KeptParts, NothingKept


def test_a_part_is_found_again_by_its_name(tmp_path):
    kept = KeptParts(tmp_path / "parts")
    assert kept.load("rounding a") is None
    kept.save("rounding a", {"codes": torch.arange(6, dtype=torch.uint8).view(2, 3)})
    kept.save("rounding b", {"codes": torch.zeros(1)})
    again = KeptParts(tmp_path / "parts").load("rounding a")
    assert torch.equal(again["codes"], torch.arange(6, dtype=torch.uint8).view(2, 3))
    assert kept.load("rounding c") is None


def test_damage_is_told_with_the_file(tmp_path):
    kept = KeptParts(tmp_path / "parts")
    kept.save("a", {"codes": torch.zeros(4)})
    (file,) = (tmp_path / "parts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="cannot be read") as caught:
        kept.load("a")
    assert caught.value.where == str(file)
    kept.save("b", {"codes": torch.zeros(4)})
    (other,) = (path for path in (tmp_path / "parts").iterdir() if path != file)
    other.replace(file)
    with pytest.raises(UserError, match="It is of 'b', not of 'a'"):
        kept.load("a")


def test_nothing_is_kept():
    NothingKept().save("a", {})
    assert NothingKept().load("a") is None
