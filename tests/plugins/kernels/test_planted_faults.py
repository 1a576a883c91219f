"""A fault that leaves every result right is noticed all the same; the others take minutes."""

from __future__ import annotations

import pytest

from .planted_faults import FAULTS, what_gives_away


@pytest.mark.usefixtures("gpu")  # which says so where there is no compiler
def test_lanes_that_do_the_right_thing_apart_are_named():
    """An emulation that looked at instructions alone, and not at their places, would pass this."""
    (fault,) = (fault for fault in FAULTS if fault.name == "a product in either branch")
    found = what_gives_away(fault)
    assert found is not None
    assert found.startswith(fault.named)
    assert found.count("gemm.h:") == 2
