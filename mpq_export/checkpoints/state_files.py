"""From files to tensors: safetensors and torch files, whole or in shards, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import CheckpointError
from ..files import parse_json
from ..weight_names import DENOISER_STEM, WeightName, heads
from .configs import read_config, require_regular
from .containers import state_dict_of
from .pickles import PICKLE_SUFFIXES, read_pickle, require_backed
from .state import State, Tensors, cannot_be_read, some

SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"


def read_file(path: Path) -> State:
    """The tensors of one file, under the names that they have there."""
    _require_content(path)
    if path.suffix == ".safetensors":
        return state_dict_of(_read_safetensors(path), path)
    state = state_dict_of(read_pickle(path), path)
    require_backed(state.tensors, path)
    return state


def read_folder(folder: Path) -> State:
    """The weights of a diffusers component folder.

    The file without a variant is preferred; a single variant is taken and noted, several are an
    error that names them.
    """
    found = heads((path.name for path in folder.iterdir()), DENOISER_STEM)
    if not found:
        raise CheckpointError(
            "The folder has no weights",
            where=folder,
            why=f"There is no {DENOISER_STEM}.safetensors",
        )
    head = found[0]
    variants = sorted({weights.variant for weights in found if weights.variant is not None})
    if head.variant is not None and len(variants) > 1:
        raise CheckpointError(
            "The folder has several variants of the weights",
            where=folder,
            why=f"{', '.join(variants)}, and none without a variant",
            fix=f"Rename the one to use to {DENOISER_STEM}.{head.format}",
        )
    state = _read_head(folder, head)
    if head.variant is None:
        return state
    note = f"The weights are of the variant {head.variant} ({head.name}): there are no others"
    return state.then(state.tensors, note)


def _read_head(folder: Path, head: WeightName) -> State:
    return _read_shards(folder, head) if head.is_index else read_file(folder / head.name)


def _read_shards(folder: Path, head: WeightName) -> State:
    """All shards of an index; each holds exactly the tensors that the index places there."""
    where = folder / head.name
    placed = read_config(where).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError("The index lists no tensors", where=where)
    by_shard: dict[str, set[str]] = {}
    for name, shard in placed.items():
        if not _is_plain_name(shard, f".{head.format}"):
            raise CheckpointError(
                f"The shard {shard!r} is not a file of the folder", where=where, why=f"For {name}"
            )
        by_shard.setdefault(shard, set()).add(name)
    tensors: Tensors = {}
    for shard, names in sorted(by_shard.items()):
        if not (folder / shard).is_file():
            raise CheckpointError("A shard is missing", where=folder / shard)
        part = read_file(folder / shard).tensors
        _require_same_names(part, names, folder / shard)
        tensors |= part
    return State(tensors)


def _is_plain_name(name: Any, suffix: str) -> bool:
    return (
        isinstance(name, str)
        and "\\" not in name
        and "\0" not in name
        and PurePosixPath(name).name == name
        and name.endswith(suffix)
    )


def _require_same_names(found: Iterable[str], listed: set[str], where: Path) -> None:
    found = set(found)
    if found != listed:
        raise CheckpointError(
            "The shard does not hold what the index says",
            where=where,
            why=f"{len(listed - found)} tensors are not there ({some(sorted(listed - found))}), "
            f"{len(found - listed)} are not listed for it ({some(sorted(found - listed))})",
            fix="Copy the folder again",
        )


def _require_content(path: Path) -> None:
    require_regular(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(
            "The file cannot be read", where=path, why=str(error.strerror)
        ) from error
    if start == _LFS_POINTER:
        raise CheckpointError(
            "The file is a pointer of Git LFS, not the weights",
            where=path,
            fix="Fetch the weights with: git lfs pull",
        )


def _read_safetensors(path: Path) -> Tensors:
    from safetensors.torch import load_file

    try:
        tensors: Tensors = load_file(path)
    except Exception as error:  # the library's errors, and those of the system
        raise cannot_be_read(path, error) from error
    _require_plain_header(path)
    return tensors


def _require_plain_header(path: Path) -> None:
    """The library lets a tensor be named twice and takes the last one."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError("The header is too large", where=path, why=f"{length} bytes")
        parse_json(stream.read(length), path, CheckpointError)
