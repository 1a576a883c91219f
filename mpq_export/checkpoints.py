"""Full-precision models in: diffusers folders and pipelines, and single files with their config.

Pickles are read with ``weights_only``: one that wants to run code is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .architectures import architecture_of
from .errors import CheckpointError
from .files import MAX_JSON_BYTES, parse_json
from .pipelines.registry import family_of_pipeline_class

DENOISER_FOLDERS = ("unet", "transformer")
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Checkpoint:
    """A full-precision model ready to be quantised, in evaluation mode and float32.

    ``family`` is the registered pipeline family, or None.
    """

    model: nn.Module
    model_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    family: str | None
    source: str


def is_bundle(path: Path) -> bool:
    """Whether a folder holds a quantised bundle rather than a checkpoint."""
    config = path / "config.json"
    return path.is_dir() and config.is_file() and "quantization_config" in _json(config)


def load_checkpoint(
    path: Path, config_path: Path | None = None, scheduler_path: Path | None = None
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        path: a diffusers pipeline folder (``model_index.json``), a component folder
            (``config.json`` and weights), or a ``.safetensors`` / ``.pt`` file.
        config_path: ``config.json`` of the model class; needed for a single file.
        scheduler_path: ``scheduler_config.json``; looked for beside the model when left out.
    """
    if not path.exists():
        raise CheckpointError(
            "There is no such checkpoint", where=path, fix="Check the path given to --ckpt"
        )
    family, component = None, path
    if path.is_dir() and (path / "model_index.json").is_file():
        index = _json(path / "model_index.json")
        family = family_of_pipeline_class(index.get("_class_name"))
        component = _denoiser_folder(path, index)
    if component.is_dir():
        if config_path is not None:
            raise CheckpointError(
                "A folder has a config.json of its own",
                where=component,
                fix="Leave --config out, or give the weights file itself to --ckpt",
            )
        config, model = _load_folder(component)
    else:
        config, model = _load_file(component, config_path)
    _require_finite(model, component)
    return Checkpoint(
        model.eval().requires_grad_(False).float(),
        config,
        _scheduler_config(_find_scheduler(path, component, scheduler_path)),
        family,
        path.name,
    )


def _denoiser_folder(path: Path, index: Mapping[str, Any]) -> Path:
    found = [name for name in DENOISER_FOLDERS if name in index and (path / name).is_dir()]
    if not found:
        raise CheckpointError(
            "The pipeline has no denoiser",
            where=path / "model_index.json",
            why=f"None of {', '.join(DENOISER_FOLDERS)} is listed with a folder",
        )
    others = [
        name
        for name, value in index.items()
        if isinstance(value, list) and value[:1] != [None] and name not in (found[0], "scheduler")
    ]
    if others:
        raise CheckpointError(
            "The pipeline has components besides denoiser and scheduler",
            where=path,
            why=f"{', '.join(others)}: a bundle would lose them",
            fix=f"Quantise the denoiser alone: --ckpt {path / found[0]}",
        )
    return path / found[0]


def _load_folder(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    import diffusers

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "The folder is not a diffusers model", where=folder, why="It has no config.json"
        )
    config = _json(folder / "config.json")
    cls = getattr(diffusers, architecture_of(config).class_name)
    if not any(folder.glob("diffusion_pytorch_model*.safetensors*")):
        pickles = sorted(folder.glob("diffusion_pytorch_model*.bin"))
        if not pickles:
            raise CheckpointError(
                "The folder has no weights",
                where=folder,
                why="There is no diffusion_pytorch_model.safetensors",
            )
        return config, _from_state(config, _read_state(pickles[0]), pickles[0])
    try:
        model, info = cls.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # a config that fits no model raises anything
        raise CheckpointError(
            "The checkpoint cannot be read",
            where=folder,
            why=_first_line(error),
            fix="Check that its files are complete",
        ) from error
    _require_fit(info["missing_keys"], info["unexpected_keys"], folder)
    return config, model


def _load_file(path: Path, config_path: Path | None) -> tuple[dict[str, Any], nn.Module]:
    if path.suffix not in (".safetensors", *_PICKLES):
        raise CheckpointError(
            "The file is not a checkpoint",
            where=path,
            why=f"Files end in .safetensors, {', '.join(_PICKLES)}",
            fix="Or give a diffusers folder",
        )
    state = _read_state(path)
    if config_path is None:
        raise CheckpointError(
            "A single file does not say which model it is",
            where=path,
            fix="Give the diffusers config with --config config.json",
        )
    config = _json(config_path)
    return config, _from_state(config, state, path)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """A plain state dict, without the prefixes that wrappers add."""
    import pickle

    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "The file is a pickle that wants more than tensors",
            where=path,
            why="Loading it could run code, so it was not loaded",
            fix="Save it again as safetensors, from a place where you trust it",
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(
            "The checkpoint cannot be read",
            where=path,
            why=_first_line(error),
            fix="Check that the file is complete",
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise CheckpointError(
            "The file holds no state dict", where=path, why="Expected names with tensors"
        )
    while prefix := _common_prefix(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _common_prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    """The wrapper's prefix that every name carries; wrappers may be nested in any order."""
    if not state:
        return None
    return next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)


def _from_state(config: dict[str, Any], state: dict[str, torch.Tensor], where: Path) -> nn.Module:
    import diffusers
    from accelerate import init_empty_weights

    cls = getattr(diffusers, architecture_of(config).class_name)
    try:
        # Without storage: the config alone must not decide how much memory is taken.
        with init_empty_weights(include_buffers=False):
            model = cls.from_config(config)
    except Exception as error:  # a config that fits no model raises anything
        raise CheckpointError(
            "The config builds no model",
            where=where,
            why=_first_line(error),
            fix="Check config.json",
        ) from error
    own = model.state_dict()
    _require_fit(sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys()), where)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            "A tensor has the wrong shape", where=where, why=_first_line(error)
        ) from error
    return model


def _require_fit(missing: list[str], unexpected: list[str], where: Path) -> None:
    if missing or unexpected:
        raise CheckpointError(
            "The weights do not fit the config",
            where=where,
            why=f"{len(missing)} tensors are missing ({', '.join(list(missing)[:3])}), "
            f"{len(unexpected)} are not expected ({', '.join(list(unexpected)[:3])})",
            fix="Check that config.json belongs to these weights",
        )


def _require_finite(model: nn.Module, where: Path) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                "The checkpoint has values that are not finite", where=where, why=f"In {name}"
            )


def _find_scheduler(path: Path, component: Path, given: Path | None) -> Path:
    name = "scheduler_config.json"
    if given is not None:
        places = [given / name if given.is_dir() else given]
    else:
        base = component if component.is_dir() else component.parent
        places = [
            path / "scheduler" / name,
            base / "scheduler" / name,
            base.parent / "scheduler" / name,
        ]
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        "The checkpoint has no scheduler",
        where=path,
        why="Activation tables are calibrated along the scheduler's timesteps",
        fix="Give a diffusers scheduler_config.json with --scheduler",
    )


def _scheduler_config(path: Path) -> dict[str, Any]:
    """A scheduler config, less the infinite defaults that diffusers writes although JSON has none.

    ``lambda_min_clipped`` of DPM-Solver++ is -Infinity; left out, it takes that default again.
    """
    config = parse_json(_config_bytes(path), path, CheckpointError, constants=float)
    return {
        key: value
        for key, value in config.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def _json(path: Path) -> dict[str, Any]:
    return parse_json(_config_bytes(path), path, CheckpointError)


def _config_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            "The file cannot be read", where=path, why=str(error.strerror)
        ) from error
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError("The file is too large for a config", where=path)
    return data


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # torch announces its list of errors in a line of its own.
    return lines[1].strip() if lines[0].endswith(":") and len(lines) > 1 else lines[0]
