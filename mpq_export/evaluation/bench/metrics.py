"""What is said of a row's images, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Metric(StrEnum):
    """Names in reports."""

    FRECHET_DATA = "frechet_data"
    FRECHET_FULL = "frechet_full_precision"
    ACCURACY = "accuracy"
    PSNR = "psnr"
    SSIM = "ssim"
    LPIPS = "lpips"
    FRECHET_INCEPTION = "frechet_inception"
    CLIP_SCORE = "clip_score"


@dataclass(frozen=True)
class Sense:
    """How a metric is read: its title, its unit, and whether more is better."""

    title: str
    unit: str
    more_is_better: bool


SENSES = {
    Metric.FRECHET_DATA: Sense("Frechet distance to data", "", False),
    Metric.FRECHET_FULL: Sense("Frechet distance to full precision", "", False),
    Metric.ACCURACY: Sense("images as asked", "%", True),
    Metric.PSNR: Sense("PSNR to full precision", "dB", True),
    Metric.SSIM: Sense("SSIM to full precision", "", True),
    Metric.LPIPS: Sense("LPIPS to full precision", "", False),
    Metric.FRECHET_INCEPTION: Sense("Frechet distance to full precision, Inception", "", False),
    Metric.CLIP_SCORE: Sense("CLIP score", "", True),
}


def few_images_note(metric: Metric, images: int, features: int) -> str:
    """What is to be known of a Frechet distance of so many images; empty: nothing."""
    if images > features:
        return ""
    return (
        f"{SENSES[metric].title}: {images} images are no more than the {features} features, and "
        "Frechet distances of so few tell little: they have no interval, and no rows are told "
        f"apart by them. Draw more than {features}, 1000 at least."
    )


TO_FULL = (
    Metric.FRECHET_FULL,
    Metric.PSNR,
    Metric.SSIM,
    Metric.LPIPS,
    Metric.FRECHET_INCEPTION,
)
"""Those that compare with the images of full precision."""
