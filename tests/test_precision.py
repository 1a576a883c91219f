"""Bit widths as users write them."""

from __future__ import annotations

import pytest

from mpq_export.errors import BitsError
from mpq_export.precision import ACTIVATION_BITS, W8A8, WEIGHT_BITS, BitSpec


@pytest.mark.parametrize("weight", range(2, 9))
@pytest.mark.parametrize("activation", range(2, 9))
def test_every_supported_width_is_read_and_written(weight: int, activation: int) -> None:
    spec = BitSpec.parse(f"w{weight}a{activation}")
    assert spec == BitSpec(weight, activation)
    assert BitSpec.parse(str(spec)) == spec
    assert weight in WEIGHT_BITS
    assert activation in ACTIVATION_BITS


@pytest.mark.parametrize("text", ["W3A4", " w3a4 ", "w3a4\n", "W3a4", "w03a4"])
def test_case_and_surrounding_space_do_not_matter(text: str) -> None:
    assert str(BitSpec.parse(text)) == "w3a4"


@pytest.mark.parametrize(
    "text",
    [
        "", "w", "3", "34", "w3", "a4", "a4w3", "w3a", "wa4", "w3 a4", "w3-a4", "w3a4x", "xw3a4",
        "3w4a", "w3.5a4", "w-3a4", "w+3a4", "w3a4w3a4", "w٣a٤", "w3a4\0", "int4", "w³a4",
    ],
)  # fmt: skip
def test_anything_else_is_not_a_bit_width(text: str) -> None:
    with pytest.raises(BitsError, match="is not a bit width") as caught:
        BitSpec.parse(text)
    assert f"'{text}'" in caught.value.what
    assert "w3a4" in caught.value.fix


@pytest.mark.parametrize("text", ["w1a4", "w9a4", "w0a4", "w16a8", "w99999999999a4"])
def test_weights_outside_the_format_are_refused(text: str) -> None:
    with pytest.raises(BitsError, match="2 to 8 bits for weights"):
        BitSpec.parse(text)


@pytest.mark.parametrize("text", ["w4a1", "w4a9", "w4a0", "w4a16"])
def test_activations_outside_the_format_are_refused(text: str) -> None:
    with pytest.raises(BitsError, match="2 to 8 bits for activations"):
        BitSpec.parse(text)


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(BitsError):
        BitSpec.parse("w" + "9" * 5000 + "a4")


def test_a_spec_made_of_numbers_is_checked_too() -> None:
    assert str(W8A8) == "w8a8"
    with pytest.raises(BitsError, match="1-bit weights"):
        BitSpec(1, 4)
    with pytest.raises(BitsError, match="12-bit activations"):
        BitSpec(4, 12)


def test_specs_are_values() -> None:
    assert len({BitSpec(3, 4), BitSpec.parse("w3a4"), W8A8}) == 2
