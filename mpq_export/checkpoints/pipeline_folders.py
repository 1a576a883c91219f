"""Where things lie in a diffusers pipeline folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

PIPELINE_INDEX = "model_index.json"
DENOISER_FOLDERS = ("unet", "transformer")
_SCHEDULER_CONFIG = "scheduler_config.json"
_COMPONENT_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def component_names(index: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    """The components that a ``model_index.json`` lists with a class: each a folder's plain name."""
    names = []
    for name, value in index.items():
        if not isinstance(value, list) or (value and value[0] is None):
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            raise CheckpointError(
                f"The component {name!r} is malformed", where=where, why="It is [library, class]"
            )
        if not _COMPONENT_NAME.fullmatch(name):
            raise CheckpointError(
                f"The component {name!r} is not a folder's name",
                where=where,
                why="Components lie in the pipeline's own folder",
            )
        names.append(name)
    return tuple(names)


def denoiser_folder(pipeline: Path, index: Mapping[str, Any]) -> Path:
    """The folder of the one component that is quantised."""
    listed = component_names(index, pipeline / PIPELINE_INDEX)
    for name in DENOISER_FOLDERS:
        if name in listed and (pipeline / name).is_dir():
            return pipeline / name
    raise CheckpointError(
        "The pipeline has no denoiser",
        where=pipeline / PIPELINE_INDEX,
        why=f"None of {', '.join(DENOISER_FOLDERS)} is listed with a folder",
    )


def find_scheduler(given: Path | None, path: Path, component: Path) -> Path:
    """The scheduler's config: the one given, or one beside the model."""
    if given is not None:
        places = [given / _SCHEDULER_CONFIG if given.is_dir() else given]
    else:
        base = component if component.is_dir() else component.parent
        folders = (path, base, base.parent)
        places = [folder / "scheduler" / _SCHEDULER_CONFIG for folder in folders]
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        "The checkpoint has no scheduler",
        where=path,
        why="Activation tables are calibrated along the scheduler's timesteps",
        fix="Give a diffusers scheduler_config.json with --scheduler",
    )
