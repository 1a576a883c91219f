"""What is kept of many images: features' statistics, how many are as asked, the first themselves.

Images pass through in any order, each once, as they are stored (8 bits): so a folder of images and
images in memory give one result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .feature_blocks import FeatureBlocks
from .frechet import FeatureStatistics
from .reference import SHOWN, Drawn, Reference

if TYPE_CHECKING:
    from ..pipelines.judge import Judge

_AT_ONCE = 500


class ImageSummary:
    """Gathers what a :class:`Reference` holds.

    Args:
        judge: extracts features and labels images; None where the family has none.
    """

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._statistics: FeatureStatistics | None = None
        self._blocks: FeatureBlocks | None = None
        self._as_asked: int | None = None
        self._shown: dict[int, NDArray[np.uint8]] = {}

    def add(self, images: NDArray[np.uint8], numbers: range) -> None:
        """Images uint8 ``[N, C, H, W]`` of these numbers."""
        kept = ((number, image) for number, image in zip(numbers, images, strict=True))
        self._shown |= {number: image for number, image in kept if number < SHOWN}
        if self._judge is None:
            return
        import torch

        pixels = torch.from_numpy(images.astype(np.float32) / np.float32(255))
        features = self._judge.features(pixels).double().numpy()
        part, blocks = FeatureStatistics.of(features), FeatureBlocks.of(features, numbers)
        self._statistics = part if self._statistics is None else self._statistics.joined(part)
        if blocks is not None:
            self._blocks = blocks if self._blocks is None else self._blocks.joined(blocks)
        right = self._judge.as_asked(pixels, numbers)
        if right is not None:
            self._as_asked = (self._as_asked or 0) + right

    def part(self, drawn: Drawn) -> Reference:
        """What was gathered, without the images themselves and the data, to be joined."""
        images, asked = self._statistics, self._as_asked
        accuracy = asked / images.count if images is not None and asked is not None else None
        extractor = None if images is None or self._judge is None else self._judge.extractor
        none = np.zeros((0, 1, 1, 1), np.uint8)
        return Reference(drawn, none, extractor, images, accuracy=accuracy, blocks=self._blocks)

    def whole(self, drawn: Drawn) -> Reference:
        """The reference, of all images."""
        shown = np.stack([self._shown[number] for number in sorted(self._shown)])
        return completed([self.part(drawn)], shown, self._judge)


def completed(
    parts: Sequence[Reference], shown: NDArray[np.uint8], judge: Judge | None
) -> Reference:
    """Parts of one drawing as a whole, with the first images and the data's statistics.

    The parts are joined in their order, which decides the last bits.
    """
    images, asked = None, 0.0
    blocks = _joined_blocks([part for part in parts if part.images is not None])
    for part in parts:
        if part.images is not None:
            images = part.images if images is None else images.joined(part.images)
            asked += (part.accuracy or 0.0) * part.images.count
    knows_labels = any(part.accuracy is not None for part in parts)
    accuracy = round(asked) / images.count if images is not None and knows_labels else None
    if judge is None or images is None:
        return Reference(parts[0].drawn, shown)
    data = data_statistics(judge)
    return Reference(parts[0].drawn, shown, judge.extractor, images, data, accuracy, blocks)


def _joined_blocks(parts: Sequence[Reference]) -> FeatureBlocks | None:
    """None where some part has none: a former program's, or of wide features."""
    joined: FeatureBlocks | None = None
    for part in parts:
        if part.blocks is None:
            return None
        joined = part.blocks if joined is None else joined.joined(part.blocks)
    return joined


def data_statistics(judge: Judge) -> FeatureStatistics:
    """Of the real images that a judge compares with, a few hundred at a time."""
    parts = (FeatureStatistics.of(judge.features(batch).double().numpy())
             for batch in judge.data.split(_AT_ONCE))  # fmt: skip
    total = next(parts)
    for part in parts:
        total = total.joined(part)
    return total
