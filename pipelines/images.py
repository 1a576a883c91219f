"""Grids of images as files."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ..errors import UserError
from ..files import staged_file

_SMALLEST_SIDE = 48
"""Smaller images are enlarged by whole factors so that they can be looked at."""


def grid(images: torch.Tensor, columns: int) -> Image.Image:
    """Tile float images ``[N, C, H, W]`` in [0, 1], row by row, with a thin border."""
    factor = max(1, -(-_SMALLEST_SIDE // images.shape[-1]))
    tiles = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    tiles = tiles.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    if tiles.shape[1] == 1:
        tiles = tiles.expand(-1, 3, -1, -1)
    _, _, height, width = tiles.shape
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) + 2, rows * (height + 2) + 2), (96, 96, 96))
    for index, tile in enumerate(tiles.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(tile), (column * (width + 2) + 2, row * (height + 2) + 2))
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


def save_grid(images: torch.Tensor, path: Path, columns: int = 10) -> None:
    """Write a grid, atomically; the suffix chooses the format."""
    with staged_file(path) as stage:
        grid(images, min(columns, len(images))).save(stage)
