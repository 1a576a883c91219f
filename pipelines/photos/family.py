"""How patches are drawn: photographs in turn, all noise from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..class_conditional import draw, draw_batch
from .pipeline import PhotosPipeline

__all__ = ["build_pipeline", "draw", "draw_batch"]


def build_pipeline(
    denoiser: Any, scheduler_config: Mapping[str, Any], _bundle: Path | None = None
) -> PhotosPipeline:
    """The pipeline around a denoiser."""
    return PhotosPipeline.around(denoiser, scheduler_config)
