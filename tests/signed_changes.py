"""The handmade bundle of ``fixtures``, changed and signed again: only the format's checks can
refuse it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from mpq_export.bundle import CORE_FILES, WEIGHTS
from mpq_export.files import write_json, write_manifest

FC, DW, OUT = "blocks.0.fc", "blocks.0.dw", "out"
Tensors = dict[str, np.ndarray]
Json = dict[str, Any]


def change_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    """Edit the weights and sign them again, so that only the format's checks can refuse them."""
    tensors = {name: value.copy() for name, value in load((folder / WEIGHTS).read_bytes()).items()}
    edit(tensors)
    (folder / WEIGHTS).write_bytes(save(tensors))
    write_manifest(folder, CORE_FILES)


def change_json(folder: Path, name: str, edit: Callable[[Json], None]) -> None:
    """Edit a JSON file and sign it again."""
    data = json.loads((folder / name).read_text("utf-8"))
    edit(data)
    write_json(folder / name, data)
    write_manifest(folder, CORE_FILES)


def replace_bytes(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and sign it again."""
    (folder / name).write_bytes(data)
    write_manifest(folder, CORE_FILES)
