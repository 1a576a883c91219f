"""From what a user has to a full-precision model: diffusers folders, single files, hub ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..architectures import modern_config
from ..errors import CheckpointError
from ..pipelines.registry import family_of_pipeline_class
from . import compvis, hub
from .building import build_model
from .configs import read_config, read_scheduler_config
from .naming import denoiser_state
from .pipeline_folders import PIPELINE_INDEX, denoiser_folder, find_scheduler
from .state import State, cannot_be_read
from .state_files import SUFFIXES, read_file, read_folder

_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Checkpoint:
    """A full-precision model ready to be quantised, in evaluation mode and float32.

    Attributes:
        model: the denoiser; its weights may be mapped from the checkpoint's files.
        family: the registered pipeline family, or None.
        source: what it was loaded from, for people.
        pipeline: the folder of the whole diffusers pipeline that it is part of, or None.
        notes: sentences on what was chosen or left out in loading it.
    """

    model: nn.Module
    model_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    family: str | None
    source: str
    pipeline: Path | None = None
    notes: tuple[str, ...] = ()


def is_bundle(checkpoint: str | Path) -> bool:
    """Whether a folder holds a quantised bundle rather than a checkpoint."""
    path = Path(checkpoint)
    config = path / "config.json"
    try:
        found = path.is_dir() and config.is_file()
    except OSError as error:
        raise cannot_be_read(path, error) from error
    return found and "quantization_config" in read_config(config)


def load_checkpoint(
    checkpoint: str | Path, config_path: Path | None = None, scheduler_path: Path | None = None
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        checkpoint: a diffusers pipeline folder (``model_index.json``), a component folder
            (``config.json`` and weights), a ``.safetensors`` file or one of torch's; or, as text,
            the hub id of such a folder (``owner/name`` or ``owner/name@revision``).
        config_path: for a single file: ``config.json`` of the model class, or the original YAML
            of LDM or Stable Diffusion.
        scheduler_path: ``scheduler_config.json``; looked for beside the model when left out.

    Raises:
        CheckpointError: it is damaged, hostile, does not fit its config, or is not supported.
    """
    try:
        return _located(checkpoint, config_path, scheduler_path)
    except OSError as error:  # folders without permission, names that no file system takes
        raise cannot_be_read(error.filename or checkpoint, error) from error


def _located(
    checkpoint: str | Path, config_path: Path | None, scheduler_path: Path | None
) -> Checkpoint:
    wanted = hub.hub_id(checkpoint) if isinstance(checkpoint, str) else None
    if wanted is not None:
        cached = hub.snapshot(wanted)
        source = f"{wanted.repo}@{cached.folder.name}"
        return _load(cached.folder, source, cached.notes, config_path, scheduler_path)
    path = Path(checkpoint)
    if not path.exists():
        raise CheckpointError(
            "There is no such checkpoint",
            where=path,
            fix="Check the path given to --ckpt; a hub id is owner/name, given where no folder "
            "'owner' lies",
        )
    return _load(path, path.name, (), config_path, scheduler_path)


def _load(
    path: Path,
    source: str,
    notes: tuple[str, ...],
    config_path: Path | None,
    scheduler_path: Path | None,
) -> Checkpoint:
    family, component, pipeline = None, path, None
    if path.is_dir() and (path / PIPELINE_INDEX).is_file():
        index = read_config(path / PIPELINE_INDEX)
        family = family_of_pipeline_class(index.get("_class_name"))
        component, pipeline = denoiser_folder(path, index), path
    if component.is_dir():
        config, state = _read_component(component, config_path)
    else:
        config, state = _read_single(component, config_path)
    config = modern_config(config)
    return Checkpoint(
        build_model(config, state.tensors, component),
        config,
        read_scheduler_config(find_scheduler(scheduler_path, path, component)),
        family,
        source,
        pipeline,
        (*notes, *state.notes),
    )


def _read_component(folder: Path, config_path: Path | None) -> tuple[dict[str, Any], State]:
    if config_path is not None:
        raise CheckpointError(
            "A folder has a config.json of its own",
            where=folder,
            fix="Leave --config out, or give the weights file itself to --ckpt",
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "The folder is not a diffusers model", where=folder, why="It has no config.json"
        )
    config = read_config(folder / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(
            "The model is already quantised",
            where=folder,
            why="Its config.json has a quantization_config",
            fix="Give the full-precision checkpoint; a bundle is opened by the path of its folder",
        )
    return config, denoiser_state(read_folder(folder))


def _read_single(path: Path, config_path: Path | None) -> tuple[dict[str, Any], State]:
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            "The file is not a checkpoint",
            where=path,
            why=f"Files end in {', '.join(SUFFIXES)}",
            fix="Or give a diffusers folder",
        )
    state = denoiser_state(read_file(path))
    if config_path is None:
        raise CheckpointError(
            "A single file does not say which model it is",
            where=path,
            fix="Give the diffusers config with --config config.json, or the original YAML of a "
            "CompVis checkpoint",
        )
    original = compvis.is_compvis(state.tensors)
    if config_path.suffix not in _YAML_SUFFIXES:
        config = read_config(config_path)
    elif original:
        config = compvis.config_from_yaml(config_path, state)
    else:
        raise CheckpointError(
            "The YAML describes a model in its original naming, and these weights are not",
            where=path,
            fix="Give diffusers' config.json with --config",
        )
    return config, compvis.converted(state, config, path) if original else state
