"""What a low-rank branch is added to, and how it begins."""

from enum import StrEnum


class LowRankBase(StrEnum):
    """The weight that the branch is added to."""

    FULL_PRECISION = "full-precision"
    """The checkpoint's weight, as in MPQ-DM."""
    QUANTIZED = "quantized"
    """The weight as first quantised, as in EfficientDM and MPQ-DMv2."""


class LowRankStart(StrEnum):
    """How the branch begins."""

    ZERO = "zero"
    """LoRA: the first factor random, the second zero."""
    QUANTIZATION_ERROR = "quantization-error"
    """MPQ-DMv2's object-oriented low-rank initialisation: the leading singular vectors of the
    quantisation error, ``W - Q(W)``."""
