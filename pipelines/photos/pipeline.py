"""The diffusers pipeline of the photos family."""

from __future__ import annotations

from ..class_conditional import UNetPixelPipeline
from .data import NUM_CLASSES


class PhotosPipeline(UNetPixelPipeline):
    """Sampling of 32x32 colour patches, conditional on the photograph."""

    num_classes = NUM_CLASSES
