"""Grids of images as files; needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import staged_file

_SMALLEST_SIDE = 48
"""Smaller images are enlarged by whole factors so that they can be looked at."""


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Tile float images ``[N, C, H, W]`` in [0, 1], row by row, with a thin border."""
    factor = max(1, -(-_SMALLEST_SIDE // images.shape[-1]))
    tiles = (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    if tiles.shape[1] == 1:
        tiles = tiles.repeat(3, axis=1)
    _, _, height, width = tiles.shape
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) + 2, rows * (height + 2) + 2), (96, 96, 96))
    for index, tile in enumerate(tiles.transpose(0, 2, 3, 1)):
        row, column = divmod(index, columns)
        place = (column * (width + 2) + 2, row * (height + 2) + 2)
        sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), place)
    return sheet


def require_image_path(path: Path) -> None:
    """Raise UserError unless an image can be written at ``path``; ask before long work."""
    known = Image.registered_extensions()
    if path.suffix.lower() not in known or path.is_dir():
        raise UserError(
            "The picture cannot be written there",
            where=path,
            why="It is a folder" if path.is_dir() else f"'{path.suffix}' is no image format",
            fix="Choose a file name that ends in .png",
        )


def save_grid(images: np.ndarray, path: Path, columns: int = 10) -> None:
    """Write a grid, atomically; the suffix chooses the format."""
    with staged_file(path) as stage:
        grid(images, min(columns, len(images))).save(stage)
