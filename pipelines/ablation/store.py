"""What has been done of the grid, on disk: one small file per result, named by what decided it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ...errors import UserError
from ...files import parse_json, staged_file, write_json
from ...tensor_files import staged_tensor_file

_IMAGES = "images"


class CellBusy(UserError):
    """Another command works on the same cell."""


@dataclass(frozen=True)
class Record:
    """Figures and images ``[N, C, H, W]`` in [0, 1], written together."""

    figures: Mapping[str, Any]
    images: np.ndarray


@dataclass(frozen=True)
class Store:
    """A folder of bundles and records by their keys."""

    folder: Path

    def bundle(self, key: str) -> Path:
        """Where a bundle lies once it is made, its training run beside it until then."""
        return self.folder / "bundles" / key

    def figures(self, key: str) -> dict[str, Any] | None:
        """The figures of a record, or None where there is none."""
        path = self._figures(key)
        return parse_json(path.read_bytes(), path, UserError) if path.is_file() else None

    def has_images(self, key: str) -> bool:
        """Whether the images of a record are here; figures may have come without."""
        return self._images(key).is_file()

    def images(self, key: str) -> np.ndarray:
        """The images of a record."""
        images: np.ndarray = load_file(self._images(key))[_IMAGES]
        return images

    def write(self, key: str, record: Record) -> None:
        """Write a record; its figures come last and make it whole."""
        json.dumps(record.figures, allow_nan=False)  # a figure that is no number is an error here
        with staged_tensor_file(self._images(key)) as stage:
            save_file({_IMAGES: np.ascontiguousarray(record.images)}, stage)
        self.write_figures(key, record.figures)

    def write_figures(self, key: str, figures: Mapping[str, Any]) -> None:
        """Write figures whose images are elsewhere."""
        with staged_file(self._figures(key)) as stage:
            write_json(stage, figures)

    @contextmanager
    def locked(self, key: str, wait: bool) -> Iterator[None]:
        """Alone at work on a key, among all processes; raises CellBusy rather than wait."""
        path = self.folder / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CellBusy(
                    "Another process works on this cell",
                    where=path,
                    fix="Run the command again when that one has ended",
                ) from error
            yield

    def _figures(self, key: str) -> Path:
        return self.folder / "records" / f"{key}.json"

    def _images(self, key: str) -> Path:
        return self.folder / "records" / f"{key}.safetensors"
