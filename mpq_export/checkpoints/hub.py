"""Checkpoints of the hub, through the cache that diffusers uses too.

Only data is downloaded, never code: configs and tokenizers, and of each component one set of
weights, safetensors where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..weight_names import DENOISER_STEM, files_of, heads, parse_weight_name
from .configs import read_config
from .pipeline_folders import DENOISER_FOLDERS, PIPELINE_INDEX, component_names
from .state import first_line

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(@(?P<revision>{_NAME}(/{_NAME})*))?", re.ASCII)
_DATA_SUFFIXES = (".json", ".txt", ".model")


@dataclass(frozen=True)
class HubId:
    """``owner/name``, and the branch, tag or commit after ``@``; None is the hub's default."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Snapshot:
    """A repository's files in the cache at one commit."""

    folder: Path
    notes: tuple[str, ...]


def hub_id(text: str) -> HubId | None:
    """The hub id that an argument is, or None if it is a path.

    It is a path if anything is there, or if its first part is a folder here: a misspelt
    ``out/checkpoint`` must not go out to the network.
    """
    match = _HUB_ID.fullmatch(text)
    if match is None or Path(text).exists() or Path(text).parts[0] in (".", ".."):
        return None
    if Path(match["repo"]).exists() or Path(match["repo"]).parent.is_dir():
        return None
    return HubId(match["repo"], match["revision"])


def snapshot(wanted: HubId) -> Snapshot:
    """Bring what a checkpoint needs into the cache, and say where it lies.

    Where the hub is not reached, or is not to be asked (``HF_HUB_OFFLINE=1``), the cached copy is
    used and that is noted. Raises :class:`CheckpointError` if there is none.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(
            snapshot_download(
                wanted.repo,
                revision=wanted.revision,
                allow_patterns=[PIPELINE_INDEX, "config.json"],
            )
        )
    except Exception as error:  # absent, private, gated, offline, or an answer of any kind
        raise CheckpointError(
            "The checkpoint is not in the cache and cannot be downloaded",
            where=str(wanted),
            why=first_line(error),
            fix="Check the name and the connection, unset HF_HUB_OFFLINE, log in with "
            "'hf auth login' if it is gated, or give the path of a downloaded copy",
        ) from error
    index = _index(folder)
    try:
        names = HfApi().list_repo_files(wanted.repo, revision=folder.name)
    except Exception as error:  # as above; but something is cached
        return Snapshot(
            folder, (f"The copy of {wanted} in the cache is used: {first_line(error)}",)
        )
    try:
        snapshot_download(
            wanted.repo, revision=folder.name, allow_patterns=needed_files(names, index)
        )
    except Exception as error:  # as above, or a full disk
        raise CheckpointError(
            "The checkpoint could not be downloaded whole",
            where=str(wanted),
            why=first_line(error),
            fix="Run the command again: what has arrived is kept",
        ) from error
    return Snapshot(folder, ())


def _index(folder: Path) -> Mapping[str, Any] | None:
    path = folder / PIPELINE_INDEX
    if path.is_file():
        return read_config(path)
    if (folder / "config.json").is_file():
        return None
    raise CheckpointError(
        "The hub's repository is not in diffusers' form",
        where=folder,
        why=f"It has neither {PIPELINE_INDEX} nor config.json",
        fix="Download its weights file, and give that with --config",
    )


def needed_files(names: Collection[str], index: Mapping[str, Any] | None) -> list[str]:
    """Of a repository's files, those that loading and copying the checkpoint needs.

    ``index`` is its ``model_index.json``; None if the repository is a component itself.
    """
    if index is None:
        folders = {"": DENOISER_STEM, "scheduler/": None}
        top = ["config.json"]
    else:
        folders = {
            f"{name}/": DENOISER_STEM if name in DENOISER_FOLDERS else None
            for name in component_names(index, Path(PIPELINE_INDEX))
        }
        top = [PIPELINE_INDEX]
    needed = set(top)
    for folder, stem in folders.items():
        inside = [
            name.removeprefix(folder)
            for name in names
            if name.startswith(folder) and "/" not in name.removeprefix(folder)
        ]
        chosen = [*_data_files(inside), *_weight_files(inside, stem)]
        needed |= {folder + name for name in chosen}
    return sorted(needed & set(names))


def _data_files(names: Collection[str]) -> list[str]:
    return [
        name for name in names if name.endswith(_DATA_SUFFIXES) and parse_weight_name(name) is None
    ]


def _weight_files(names: Collection[str], stem: str | None) -> list[str]:
    """The preferred weights; all variants if there is nothing else, so that the loader can say."""
    found = heads(names, stem)
    if found and found[0].variant is None:
        found = found[:1]
    return [name for head in found for name in files_of(head, names)]
