"""How good a row's images are by the networks of others that are on this disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..estimates import Estimate, frechet_evaluations, frechet_of, mean_of
from .metrics import Metric, few_images_note
from .networks import Images, NotOnDisk, clip_score, inception, lpips

_LEAST_SIDE_OF_LPIPS = 31
"""Of smaller images AlexNet's second pooling has no window."""


class NetworkJudging:
    """Measures sets of images.

    Args:
        original: full precision's images ``[N, C, H, W]``, or None where there are none.
        prompts: that images were drawn of in turn.

    Attributes:
        not_measured: what is not, with the reason.
        note: on how far its distances hold; empty: nothing.
        evaluations: of distances per row.
    """

    def __init__(self, original: Images | None, prompts: Sequence[str]) -> None:
        self._original = original
        self.not_measured: dict[Metric, str] = {}
        self._lpips = self._inception = self._clip = None
        try:
            self._lpips = lpips()
            if original is not None and min(original.shape[-2:]) < _LEAST_SIDE_OF_LPIPS:
                self._lpips = None
                why = f"its network takes images of {_LEAST_SIDE_OF_LPIPS} pixels and more"
                self.not_measured[Metric.LPIPS] = why
        except NotOnDisk as why:
            self.not_measured[Metric.LPIPS] = str(why)
        try:
            self._inception = inception()
        except NotOnDisk as why:
            self.not_measured[Metric.FRECHET_INCEPTION] = str(why)
        try:
            self._clip = clip_score(prompts)
        except NotOnDisk as why:
            self.not_measured[Metric.CLIP_SCORE] = str(why)
        self._features_of_original: np.ndarray | None = None
        if self._inception is not None and original is not None:
            self._features_of_original = self._inception(original)
        self.note, self.evaluations = "", 0
        if self._features_of_original is not None:
            shape = self._features_of_original.shape
            self.note = few_images_note(Metric.FRECHET_INCEPTION, *shape)
            self.evaluations = frechet_evaluations(*shape)

    def figures(
        self, images: Images, on_distance: Callable[[], None] = lambda: None
    ) -> dict[Metric, Estimate]:
        """All that can be measured of a row's images; full precision has no distance to itself."""
        found: dict[Metric, Estimate] = {}
        if self._clip is not None:
            found[Metric.CLIP_SCORE] = mean_of(self._clip(images), 0, 100)
        if self._original is None or images is self._original:
            return found
        if self._lpips is not None:
            found[Metric.LPIPS] = mean_of(self._lpips(images, self._original), 0)
        if self._inception is not None and self._features_of_original is not None:
            features = self._inception(images)
            found[Metric.FRECHET_INCEPTION] = frechet_of(
                features, self._features_of_original, paired=True, on_distance=on_distance
            )
        return found
