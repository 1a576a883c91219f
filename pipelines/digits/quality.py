"""How good drawn digits are: are they the digits asked for, and how far from data and original."""

from __future__ import annotations

from ..judge import ClassifierJudge
from .classifier import DigitClassifier
from .data import load_digits


class DigitsJudge(ClassifierJudge):
    """The classifier and the data it measures against (the diffusion split, 1,000 images)."""

    def __init__(self) -> None:
        super().__init__(DigitClassifier.load(), load_digits().diffusion.images / 2 + 0.5)
