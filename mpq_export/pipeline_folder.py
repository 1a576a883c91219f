"""What a whole diffusers pipeline has beside its denoiser: copied into a bundle, and verified.

``pipeline/`` in a bundle holds ``model_index.json``, a folder for every further component, and a
manifest of hashes. Denoiser and scheduler are the bundle's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import BundleError, CheckpointError
from .files import (
    MANIFEST,
    read_json,
    read_manifest,
    verified_path,
    write_manifest,
)

PIPELINE = "pipeline"
INDEX = "model_index.json"
DENOISERS, SCHEDULER = ("unet", "transformer"), "scheduler"
_DATA_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_MAX_FILES = 1000


def files_to_copy(source: Path) -> dict[str, Path]:
    """Everything but denoiser and scheduler of a pipeline folder: names in the copy, and sources.

    Only data goes along: JSON, vocabularies and safetensors; never pickles, never code. Links are
    followed within the folder and to the blobs of the hub's cache, nowhere else. Raises
    CheckpointError where a component cannot go along.
    """
    from .checkpoints.configs import read_config
    from .checkpoints.pipeline_folders import component_names

    index = read_config(source / INDEX)
    files = {INDEX: source / INDEX}
    for name in component_names(index, source / INDEX):
        if name in (*DENOISERS, SCHEDULER):
            continue
        if not (source / name).is_dir():
            raise CheckpointError(
                f"The pipeline's component '{name}' is missing",
                where=source / name,
                why=f"{INDEX} lists it",
                fix="Copy the whole pipeline, or quantise the denoiser's folder alone",
            )
        files |= {f"{name}/{plain}": path for path, plain in _files_of(source / name)}
    for path in files.values():
        _require_inside(source, path)
    return files


def copy_components(source: Path, bundle: Path) -> None:
    """Copy :func:`files_to_copy` into ``bundle/pipeline`` and write their manifest."""
    files = files_to_copy(source)
    for name, path in files.items():
        target = bundle / PIPELINE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    write_manifest(bundle / PIPELINE, list(files))


def _files_of(component: Path) -> list[tuple[Path, str]]:
    """The files of a component that go along, with their names there."""
    from .weight_names import files_of, heads, parse_weight_name

    names = sorted(path.name for path in component.iterdir() if path.is_file())
    chosen = [(component / name, name) for name in names if name.endswith(_DATA_SUFFIXES)]
    chosen = [(path, name) for path, name in chosen if parse_weight_name(name) is None]
    found = heads(names)
    if not found:
        return chosen
    head = found[0]
    if head.format == "bin" or (head.variant and head.is_index):
        raise CheckpointError(
            "A component's weights cannot go into a bundle",
            where=component / head.name,
            why="They are pickled" if head.format == "bin" else "They are shards of a variant",
            fix="Save the pipeline again with save_pretrained(safe_serialization=True)",
        )
    if head.variant:
        return [*chosen, (component / head.name, f"{head.stem}.safetensors")]
    return [*chosen, *((component / name, name) for name in files_of(head, names))]


def _require_inside(source: Path, file: Path) -> None:
    real, root = file.resolve(), source.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(
            "A file of the pipeline lies outside its folder", where=file, why=f"It links to {real}"
        )


def verified_index(bundle: Path) -> Mapping[str, Any]:
    """The pipeline's index, after every file of ``bundle/pipeline`` was found as it was written."""
    folder = bundle / PIPELINE
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(
            "The bundle has no pipeline",
            where=folder,
            why="It was exported from a denoiser alone",
            fix="Export it again from the whole pipeline's folder",
        )
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    if len(names) > _MAX_FILES:
        raise BundleError("The pipeline has too many files", where=folder, why=f"{len(names)}")
    listed = [name for name in names if name != MANIFEST]
    manifest = read_manifest(folder, listed, BundleError, "Export the bundle again")
    for name in listed:
        verified_path(folder, name, manifest, BundleError)
    return read_json(folder, INDEX, manifest, BundleError)


def further_components(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The components of an index beside denoiser and scheduler."""
    names = [
        name
        for name, value in index.items()
        if isinstance(value, list) and value and value[0] and name not in (*DENOISERS, SCHEDULER)
    ]
    for name in names:
        entry = index[name]
        if not name.isidentifier() or len(entry) != 2 or not all(type(e) is str for e in entry):
            raise BundleError(
                f"The component {name!r} is malformed",
                where=INDEX,
                why="A component is the name of a folder, with a library and a class",
            )
    return tuple(names)
