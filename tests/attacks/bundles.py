"""Spoiling copies of bundles: edits that fix the hashes up, so that only the format refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from mpq_export.bundle import CONFIG, CORE_FILES, WEIGHTS
from mpq_export.files import write_manifest

from .attack import Place

Tensors = dict[str, np.ndarray]
Make = Callable[[Place], Path]


def handmade(place: Place) -> Path:
    """A copy of the bundle that uses every part of the format."""
    return Path(shutil.copytree(place.material.handmade, place.folder / "bundle"))


def lowered(place: Place) -> Path:
    """A copy of the tiny model's bundle with all its targets."""
    return Path(shutil.copytree(place.material.lowered, place.folder / "bundle"))


def cached(place: Place) -> Path:
    """A copy of the tiny model's bundle with cached features, and all its targets."""
    return Path(shutil.copytree(place.material.cached, place.folder / "bundle"))


def spoiled(edit: Callable[[Path], Any], base: Make = handmade) -> Make:
    """A copy whose folder is edited, hashes left as they are."""

    def make(place: Place) -> Path:
        folder = base(place)
        edit(folder)
        return folder

    return make


def signed(edit: Callable[[Path], Any], base: Make = handmade) -> Make:
    """A copy whose folder is edited and signed again."""
    return spoiled(lambda folder: (edit(folder), write_manifest(folder, CORE_FILES)), base)


def with_bytes(name: str, edit: Callable[[bytes], bytes], base: Make = handmade) -> Make:
    """A signed copy with one file's bytes edited."""
    return signed(lambda f: (f / name).write_bytes(edit((f / name).read_bytes())), base)


def with_json(name: str, edit: Callable[[dict[str, Any]], Any], base: Make = handmade) -> Make:
    """A signed copy with one JSON file edited."""

    def change(data: bytes) -> bytes:
        value = json.loads(data)
        edit(value)
        return json.dumps(value).encode()

    return with_bytes(name, change, base)


def with_config(base: Make = handmade, **change: Any) -> Make:
    """A signed copy with keys of the model's config replaced."""
    return with_json(CONFIG, lambda data: data.update(change), base)


def with_tensors(edit: Callable[[Tensors], Any], base: Make = handmade) -> Make:
    """A signed copy with tensors edited."""

    def change(data: bytes) -> bytes:
        tensors = {name: value.copy() for name, value in load(data).items()}
        edit(tensors)
        return save({name: np.ascontiguousarray(v) for name, v in tensors.items()})

    return with_bytes(WEIGHTS, change, base)
