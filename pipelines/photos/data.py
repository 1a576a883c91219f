"""Patches of the colour photographs that ship inside scikit-image and scikit-learn.

Every photograph is cut into cells of 128x128 pixels, of which every fifth is held out: no pixel of
a training patch, at any scale, lies in such a cell, and all pixels of a held-out patch do. Patches
are 32x32 pixels of the photograph, or of its means over 2x2 or 3x3 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, max_pool2d

from ...errors import missing_package

IMAGE_SIZE = 32
SCALES = (1, 2, 3)
_CELL = 128
_HELD_OUT_SEED = 0


@dataclass(frozen=True)
class Photograph:
    """A file of an installed package, opened by name: the packages' own functions might download.

    ``reduction`` is the side of the squares that are averaged first, where a photograph is so large
    that its patches would be almost one colour.
    """

    package: str
    file: str
    reduction: int = 1


PHOTOGRAPHS = (
    Photograph("skimage", "data/astronaut.png"),
    Photograph("skimage", "data/chelsea.png"),
    Photograph("sklearn", "datasets/images/china.jpg"),
    Photograph("skimage", "data/coffee.png"),
    Photograph("sklearn", "datasets/images/flower.jpg"),
    Photograph("skimage", "data/hubble_deep_field.jpg"),
    Photograph("skimage", "data/ihc.png"),
    Photograph("skimage", "data/motorcycle_left.png"),
    Photograph("skimage", "data/retina.jpg", reduction=2),
    Photograph("skimage", "data/rocket.jpg"),
)
"""The class of a patch is the place of its photograph here."""
NUM_CLASSES = len(PHOTOGRAPHS)


@dataclass(frozen=True)
class Patches:
    """Where patches can be cut, by photograph and scale.

    Attributes:
        pixels: float32 ``[3, P]`` in [-1, 1], of all photographs at all scales.
        widths: int64 ``[G]``, pixels in a line of each group: a photograph at a scale, scales
            fastest.
        corners: int64 ``[C]``, the first pixel of every possible patch, group after group.
        starts: int64 ``[G + 1]``, where each group begins in ``corners``.
    """

    pixels: torch.Tensor
    widths: torch.Tensor
    corners: torch.Tensor
    starts: torch.Tensor

    def cut(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A random patch, at a random scale, of each photograph: float32 ``[N, 3, 32, 32]``."""
        scales = torch.randint(0, len(SCALES), labels.shape, generator=generator)
        groups = labels * len(SCALES) + scales
        first, counts = self.starts[groups], self.starts[groups + 1] - self.starts[groups]
        share = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
        corners = self.corners[first + (share * counts).long()]
        side = torch.arange(IMAGE_SIZE)
        lines = corners[:, None] + side * self.widths[groups][:, None]
        return self.pixels[:, lines[:, :, None] + side].movedim(0, 1).contiguous()


@dataclass(frozen=True)
class Photos:
    """The two disjoint sources of patches."""

    training: Patches
    held_out: Patches


def load_photos() -> Photos:
    """Read the photographs; raises RuntimeUnavailable where a package is not installed."""
    pixels, widths, position = [], [], 0
    corners: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for photograph in PHOTOGRAPHS:
        image = _read(photograph)
        held = held_out_cells(*image.shape[1:])
        for scale in SCALES:
            level = avg_pool2d(image, scale)
            pixels.append(level.flatten(1))
            widths.append(level.shape[2])
            for found, valid in zip(corners, _places(held, scale), strict=True):
                y, x = valid.nonzero(as_tuple=True)
                found.append(position + y * level.shape[2] + x)
            position += level[0].numel()
    shared = torch.cat(pixels, dim=1), torch.tensor(widths)
    training, held_out = (_patches(*shared, found) for found in corners)
    return Photos(training, held_out)


def held_out_patches(photos: Photos, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same patches every time, photographs in turn, and their labels int64 ``[count]``."""
    labels = torch.arange(count) % NUM_CLASSES
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
    return photos.held_out.cut(labels, generator), labels


def held_out_cells(height: int, width: int) -> torch.Tensor:
    """Which pixels are held out: bool ``[height, width]``, a knight's-move lattice of cells."""
    row, column = torch.arange(height) // _CELL, torch.arange(width) // _CELL
    return (row[:, None] + 2 * column) % 5 == 2


def _read(photograph: Photograph) -> torch.Tensor:
    """Float32 ``[3, H, W]`` in [-1, 1]."""
    try:
        path = files(photograph.package) / photograph.file
    except ModuleNotFoundError as error:
        raise missing_package(photograph.package, "photos", "The photographs' data") from error
    with path.open("rb") as stream, Image.open(stream) as image:
        values = np.asarray(image.convert("RGB"), np.float32)
    return avg_pool2d(torch.from_numpy(values).movedim(2, 0) / 127.5 - 1, photograph.reduction)


def _places(held: torch.Tensor, scale: int) -> Iterator[torch.Tensor]:
    """Corners of patches at a scale without a held-out pixel, and of those with no other."""
    for unwanted in (held, ~held):
        level = max_pool2d(unwanted[None].float(), scale)
        level = max_pool2d(level, (IMAGE_SIZE, 1), stride=1)
        yield max_pool2d(level, (1, IMAGE_SIZE), stride=1)[0] == 0


def _patches(pixels: torch.Tensor, widths: torch.Tensor, corners: list[torch.Tensor]) -> Patches:
    counts = torch.tensor([0, *(len(found) for found in corners)])
    return Patches(pixels, widths, torch.cat(corners), counts.cumsum(0))
