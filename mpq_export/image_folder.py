"""A folder of numbered images that is filled by any number of processes, each of which may die.

::

    sampling.json  images/000000.png  images/000001.png ...

Every image appears whole or not at all, under its number. ``sampling.json`` says what was asked
for: only the same request goes on in the folder. It is written before ``images`` is made, so that a
process that finds images finds their request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import UserError
from .files import MAX_JSON_BYTES, parse_json, staged_file, write_json
from .leftovers import SUFFIX, locked_stage, remove_leftovers

REQUEST, IMAGES = "sampling.json", "images"
_DIGITS = 6
_PNG_BEGINNING, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MOST_PIXELS = 1 << 26


def as_bytes(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Images in [0, 1] as they are stored, uint8 of the same shape."""
    return (np.clip(images, 0, 1) * 255).round().astype(np.uint8)


class ImageFolder:
    """The folder of one request.

    Args:
        path: where it lies, or will.
        request: plain data that decides every image.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path, self._request = path, dict(request)

    def open(self) -> None:
        """Make the folder, or find that it is of this request; remove what dead writers left.

        Raises UserError where it holds other files, or images of another request.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = [entry for entry in self.path.iterdir() if not _is_of_a_beginning(entry)]
            # Asked after the listing: a process that starts with this one may write it meanwhile.
            if not (self.path / REQUEST).exists():
                if strangers:
                    raise UserError(
                        "The folder of images holds other files",
                        where=self.path,
                        why=f"It has no {REQUEST}",
                        fix="Choose another path, or empty it",
                    )
                with staged_file(self.path / REQUEST) as stage:
                    write_json(stage, self._request)
            self._require_same_request()
            (self.path / IMAGES).mkdir(exist_ok=True)
            remove_leftovers(self.path / IMAGES)
        except OSError as error:
            raise UserError(
                "The folder of images cannot be written",
                where=self.path,
                why=str(error.strerror),
                fix="Choose a path that this user may write to",
            ) from error

    def _require_same_request(self) -> None:
        where = self.path / REQUEST
        try:
            with where.open("rb") as stream:
                found = parse_json(stream.read(MAX_JSON_BYTES), where, UserError)
        except OSError as error:
            raise UserError(
                "The folder's request cannot be read",
                where=where,
                why=str(error.strerror),
                fix="Make it readable, or choose another folder",
            ) from error
        keys = sorted({*found, *self._request})
        different = [key for key in keys if found.get(key) != self._request.get(key)]
        if different:
            raise UserError(
                "The folder holds images of another request",
                where=self.path,
                why=f"It differs in {', '.join(different[:4])}",
                fix="Ask for the same to go on with it, or choose another folder",
            )

    @contextmanager
    def writer(self) -> Iterator[ImageWriter]:
        """What adds images until the block ends; a dead writer's half-written one is removed by
        the next process that opens the folder."""
        with locked_stage(self.path / IMAGES) as stage:
            try:
                yield ImageWriter(self, stage)
            finally:
                for file in stage.iterdir():
                    file.unlink(missing_ok=True)
                stage.rmdir()

    def image(self, number: int) -> Path:
        """The file of an image."""
        return self.path / IMAGES / f"{number:0{_DIGITS}}.png"

    def has(self, images: range) -> bool:
        """Whether all images of these numbers are there, whole."""
        return all(_is_whole(self.image(number)) for number in images)

    def read(self, images: range) -> NDArray[np.uint8]:
        """The images of these numbers, uint8 ``[N, C, H, W]``."""
        pixels = [_pixels(self.image(number)) for number in images]
        if len({image.shape for image in pixels}) > 1:
            raise UserError(
                "The images are of different sizes",
                where=self.path / IMAGES,
                why="One request draws one size: some were not drawn by it",
                fix="Delete those: they are redrawn",
            )
        return np.stack(pixels)


class ImageWriter:
    """Adds images to a folder."""

    def __init__(self, folder: ImageFolder, stage: Path) -> None:
        self._folder, self._stage = folder, stage

    def write(self, first: int, images: NDArray[np.uint8]) -> None:
        """Add uint8 ``[N, C, H, W]`` as numbers ``first`` and following."""
        mode = _MODES.get(images.shape[1])
        if mode is None:
            raise UserError(
                f"Images of {images.shape[1]} channels cannot be written",
                where=self._folder.path,
                why=f"PNG has {', '.join(map(str, _MODES))}",
                fix="Draw them from Python: mpq_export.drawing.open_drawer",
            )
        for number, image in enumerate(images, first):
            target = self._folder.image(number)
            draft = self._stage / target.name
            try:
                pixels = np.ascontiguousarray(image[0] if mode == "L" else image.transpose(1, 2, 0))
                Image.fromarray(pixels).save(draft)
                os.replace(draft, target)
            except OSError as error:
                raise UserError(
                    "An image cannot be written",
                    where=target,
                    why=str(error.strerror or error),
                    fix="Give the same command again: it goes on where it stopped",
                ) from error


def _is_of_a_beginning(entry: Path) -> bool:
    """Whether a process that dies before its request is written, or an older program before its
    first image, leaves this."""
    if entry.name == IMAGES:
        return entry.is_dir() and not entry.is_symlink() and not any(entry.iterdir())
    stages = entry.name.startswith(f".{IMAGES}.") and entry.name.endswith(SUFFIX)
    return stages or entry.name.startswith(f".{Path(REQUEST).stem}.")


def _is_whole(path: Path) -> bool:
    """Whether a PNG file is there to its end: a machine without power may leave one that is not."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            if size <= len(_PNG_BEGINNING) + len(_PNG_END):
                return False
            stream.seek(-len(_PNG_END), os.SEEK_END)
            return stream.read() == _PNG_END
    except OSError:
        return False


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS or image.mode not in _MODES.values():
                raise UserError(
                    "The image is not of this folder's kind",
                    where=path,
                    why=f"It has {image.width} x {image.height} pixels of mode {image.mode}",
                    fix="Delete it: it is redrawn",
                )
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            "The image cannot be read", where=path, why=str(error), fix="Delete it: it is redrawn"
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
