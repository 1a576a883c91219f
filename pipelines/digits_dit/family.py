"""How the transformer draws digits: labels 0..9 in turn, all noise from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..class_conditional import draw, draw_batch
from .pipeline import DigitsDiTPipeline

__all__ = ["build_pipeline", "draw", "draw_batch"]


def build_pipeline(
    denoiser: Any, scheduler_config: Mapping[str, Any], _bundle: Path | None = None
) -> DigitsDiTPipeline:
    """The pipeline around a denoiser."""
    return DigitsDiTPipeline.around(denoiser, scheduler_config)
