"""How good drawn patches are: of the photograph asked for, and how far from data and original."""

from __future__ import annotations

from ..judge import ClassifierJudge
from .classifier import PhotoClassifier
from .data import held_out_patches, load_photos

NUM_HELD_OUT = 2000


class PhotosJudge(ClassifierJudge):
    """The classifier and the data it measures against: patches that nothing was trained on."""

    def __init__(self) -> None:
        data, _ = held_out_patches(load_photos(), NUM_HELD_OUT)
        super().__init__(PhotoClassifier.load(), data / 2 + 0.5)
