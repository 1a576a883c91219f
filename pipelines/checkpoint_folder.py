"""A trained pipeline of pixels and labels as the folder that ships."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from ..files import staged_file
from .class_conditional import ClassConditionalPipeline


def save_checkpoint(
    pipeline: ClassConditionalPipeline, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a pipeline folder, each file atomically, its model's weights rounded to ``dtype``.

    The pipeline's own model is rounded with them.
    """
    for parameter in pipeline.denoiser.parameters():
        parameter.data = parameter.data.to(dtype)
    with tempfile.TemporaryDirectory() as drafts:
        pipeline.save_pretrained(drafts)
        for draft in Path(drafts).rglob("*"):
            if draft.is_file():
                with staged_file(folder / draft.relative_to(drafts)) as stage:
                    shutil.copyfile(draft, stage)
