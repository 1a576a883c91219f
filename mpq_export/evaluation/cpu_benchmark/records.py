"""Finished sittings on disk: a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ...errors import RuntimeUnavailable
from ...files import staged_file, write_json
from ...runtimes.native_library import native_library
from ..timing.rounds import Cell
from .artefacts import artefact_key
from .sittings import Sitting


def record_path(
    sitting: Sitting, machine: Mapping[str, str], threads: int, rounds: int, work: Path
) -> Path:
    """Where a sitting's record lies: its name is a hash of all that its times depend on."""
    parts = {
        "machine": dict(machine),
        "model": sitting.model.name,
        "batch": sitting.batch,
        "backends": {b.name: artefact_key(sitting.model, b.artefact) for b in sitting.backends},
        "ours": _own_digest(),
        "threads": threads,
        "rounds": rounds,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return work / "records" / f"{sitting.model.name}-b{sitting.batch}-{digest}.json"


def _own_digest() -> str:
    """Of what runs the packed model: the native library, or that there is none."""
    try:
        with open(native_library(), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except RuntimeUnavailable:
        return "portable"


def read_record(path: Path) -> list[Cell] | None:
    """The cells of a finished sitting, or None."""
    if not path.is_file():
        return None
    return [Cell(**cell) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def write_record(path: Path, cells: Sequence[Cell]) -> None:
    """Keep a sitting."""
    os.makedirs(path.parent, exist_ok=True)
    with staged_file(path) as stage:
        write_json(stage, {"cells": [asdict(cell) for cell in cells]})
