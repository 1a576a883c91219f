"""The diffusers pipeline of the digits family."""

from __future__ import annotations

from ..class_conditional import UNetPixelPipeline
from .data import NUM_CLASSES


class DigitsPipeline(UNetPixelPipeline):
    """Class-conditional sampling of 16x16 grey images."""

    num_classes = NUM_CLASSES
