"""The three ways in which the bit planes of a row may step."""

from enum import StrEnum


class WeightForm(StrEnum):
    """How the steps of a row's planes depend on each other."""

    UNIFORM = "uniform"
    """One grid per row, its range clipped by error."""
    RESIDUAL = "residual"
    """MPQ-DMv2's FZ-RMQ: a uniform base of N - 1 bits and 0, 1 or 2 binary residuals."""
    FREE = "free"
    """Every plane has its own step."""
