"""How patches are drawn: photographs in turn, all noise from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..class_conditional import draw
from .pipeline import PhotosPipeline

__all__ = ["build_pipeline", "draw"]


def build_pipeline(
    denoiser: Any, scheduler_config: Mapping[str, Any], _bundle: Path | None = None
) -> PhotosPipeline:
    """The pipeline around a denoiser."""
    return PhotosPipeline.around(denoiser, scheduler_config)
