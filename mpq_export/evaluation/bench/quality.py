"""How good a row's images are, by its family's judge and beside full precision's of equal noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from ...pipelines.registry import family_registration, load_judge
from ..estimates import Estimate, frechet_evaluations, frechet_of, mean_of, psnr_of
from .metrics import SENSES, TO_FULL, Metric, few_images_note

_LEAST_SIDE_OF_SSIM = 11
"""Its window."""


class Judging:
    """Measures sets of images of one family.

    Args:
        family: of the bundles.
        original: full precision's images ``[N, C, H, W]``, or None where there are none.
        prompts: that images were drawn of in turn.

    Attributes:
        not_measured: titles of what is not, with the reason.
        notes: on how far figures hold, by metric.
    """

    def __init__(
        self, family: str | None, original: np.ndarray | None, prompts: Sequence[str] = ()
    ) -> None:
        self._judge = None
        self.not_measured: dict[str, str] = {}
        self.notes: dict[Metric, str] = {}
        self._original = original
        missing = [name for name in ("torch", "torchmetrics") if find_spec(name) is None]
        if missing:
            for metric in set(Metric) - {Metric.PSNR}:
                self.not_measured[SENSES[metric].title] = f"{missing[0]} is not installed"
        elif family_registration(family).judge is None:
            for metric in (Metric.FRECHET_DATA, Metric.FRECHET_FULL, Metric.ACCURACY):
                self.not_measured[SENSES[metric].title] = (
                    f"the family '{family}' has no classifier, whose features it would be over"
                )
        else:
            self._judge = load_judge(family)
            self._data = self._judge.features(self._judge.data).numpy()
        self._measures_ssim = not missing
        self._networks = None
        if not missing:
            from .network_quality import NetworkJudging

            self._networks = NetworkJudging(original, prompts)
            for metric, why in self._networks.not_measured.items():
                self.not_measured[SENSES[metric].title] = why
        if original is None:
            for metric in TO_FULL:
                self.not_measured[SENSES[metric].title] = "there is no full precision: give --ckpt"
        self._originals_features = None if original is None else self._features(original)

    def evaluations(self, count: int) -> int:
        """How many distances a row of so many images takes at most."""
        found = 0 if self._networks is None else self._networks.evaluations
        if self._judge is not None:
            sets = 1 if self._original is None else 2
            found += sets * frechet_evaluations(count, self._data.shape[1])
        return found

    def measure(
        self, images: np.ndarray, on_distance: Callable[[], None] = lambda: None
    ) -> Mapping[Metric, Estimate]:
        """All that can be measured of a row's images, float32 ``[N, C, H, W]`` in [0, 1].

        A figure that is not a number is left out and noted. ``on_distance`` is called after each
        of :meth:`evaluations`.
        """
        found = self._figures(images, on_distance)
        for metric, figure in found.items():
            if not figure.is_finite:
                self.not_measured[SENSES[metric].title] = "for some rows it is not a number"
        return {metric: figure for metric, figure in found.items() if figure.is_finite}

    def _figures(
        self, images: np.ndarray, on_distance: Callable[[], None]
    ) -> dict[Metric, Estimate]:
        found: dict[Metric, Estimate] = {}
        features = self._features(images)
        if self._judge is not None and features is not None:
            found[Metric.FRECHET_DATA] = frechet_of(features, self._data, False, on_distance)
            self._note_of(Metric.FRECHET_DATA, features)
            asked = self._as_asked(images)
            if asked is not None:
                found[Metric.ACCURACY] = mean_of(asked, 0, 1)
        if self._networks is not None:
            found |= self._networks.figures(images, on_distance)
            if Metric.FRECHET_INCEPTION in found and self._networks.note:
                self.notes[Metric.FRECHET_INCEPTION] = self._networks.note
        original = self._original
        if original is None:
            return found
        if original is images:  # full precision itself is where distances to it begin
            if features is not None:
                found[Metric.FRECHET_FULL] = Estimate(value=0, low=0, high=0)
            return found
        if features is not None and self._originals_features is not None:
            found[Metric.FRECHET_FULL] = frechet_of(
                features, self._originals_features, True, on_distance
            )
            self._note_of(Metric.FRECHET_FULL, features)
        difference = images.astype(np.float64) - original
        found[Metric.PSNR] = psnr_of(np.square(difference).mean(axis=(1, 2, 3)))
        if self._measures_ssim:
            if min(images.shape[-2:]) < _LEAST_SIDE_OF_SSIM:
                self.not_measured[SENSES[Metric.SSIM].title] = (
                    f"its window is {_LEAST_SIDE_OF_SSIM} pixels wide, the images "
                    f"{min(images.shape[-2:])}"
                )
            else:
                found[Metric.SSIM] = mean_of(_structural_similarity(images, original), -1, 1)
        return found

    def _note_of(self, metric: Metric, features: np.ndarray) -> None:
        note = few_images_note(metric, *features.shape)
        if note:
            self.notes[metric] = note

    def _features(self, images: np.ndarray) -> np.ndarray | None:
        if self._judge is None:
            return None
        import torch

        return np.asarray(self._judge.features(torch.from_numpy(images)))

    def _as_asked(self, images: np.ndarray) -> np.ndarray | None:
        """Whether each image shows what was asked for."""
        import torch

        assert self._judge is not None
        tensor = torch.from_numpy(images)
        answers = [
            self._judge.as_asked(tensor[number : number + 1], range(number, number + 1))
            for number in range(len(images))
        ]
        return None if answers[0] is None else np.array(answers, np.float64)


def _structural_similarity(images: np.ndarray, original: np.ndarray) -> np.ndarray:
    """SSIM of every pair, float64 ``[N]`` (Wang et al. 2004)."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    pair = torch.from_numpy(images), torch.from_numpy(original)
    return np.asarray(ssim(*pair, data_range=1.0, reduction="none"), np.float64).reshape(-1)
