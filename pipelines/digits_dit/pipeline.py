"""The diffusers pipeline of the digits' transformer."""

from __future__ import annotations

from ..class_conditional import DiTPixelPipeline
from ..digits.data import NUM_CLASSES


class DigitsDiTPipeline(DiTPixelPipeline):
    """Class-conditional sampling of 16x16 grey images."""

    num_classes = NUM_CLASSES
