"""A trained diffusers pipeline as the folder that ships."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from ..files import staged_file


def save_checkpoint(
    pipeline: DiffusionPipeline, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a pipeline folder, each file atomically, its models' weights rounded to ``dtype``.

    The pipeline's own models are rounded with them.
    """
    with tempfile.TemporaryDirectory() as drafts:
        pipeline.to(dtype=dtype).save_pretrained(drafts)
        for draft in Path(drafts).rglob("*"):
            if draft.is_file():
                with staged_file(folder / draft.relative_to(drafts)) as stage:
                    shutil.copyfile(draft, stage)
