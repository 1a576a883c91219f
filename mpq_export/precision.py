"""Bit widths as users write them: ``w3a4`` is 3-bit weights and 4-bit activations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import BitsError

WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(2, 9)
_PATTERN = re.compile(r"w(\d{1,18})a(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class BitSpec:
    """Weight and activation bits of a layer or of a whole model.

    ``weight`` 2..7 is the mean number of bit planes per row; 8 is uniform and symmetric.
    ``activation`` 2..8 is the width of the activation codes.
    """

    weight: int
    activation: int

    def __post_init__(self) -> None:
        _require("weights", self.weight, WEIGHT_BITS)
        _require("activations", self.activation, ACTIVATION_BITS)

    @classmethod
    def parse(cls, text: str) -> BitSpec:
        """``"w3a4"`` to ``BitSpec(3, 4)``; raises :class:`BitsError` on anything else."""
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise BitsError(
                f"'{text}' is not a bit width",
                where="bits",
                why="It is written w<weight bits>a<activation bits>",
                fix="For example w3a4 for 3-bit weights with 4-bit activations, or w8a8",
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation}"


def _require(what: str, bits: int, allowed: range) -> None:
    if bits not in allowed:
        raise BitsError(
            f"{bits}-bit {what} are not supported",
            where="bits",
            why=f"The packed format holds {allowed.start} to {allowed.stop - 1} bits for {what}",
            fix="For example w3a4, w4a8 or w8a8",
        )


W8A8 = BitSpec(8, 8)
