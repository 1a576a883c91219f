"""Patches of photographs: where they may be cut, and what they are."""

import pytest
import torch
from mpq_export.pipelines.photos import data
from mpq_export.pipelines.photos.data import (
    IMAGE_SIZE,
    NUM_CLASSES,
    PHOTOGRAPHS,
    SCALES,
    Photograph,
    held_out_cells,
    held_out_patches,
    load_photos,
)

from mpq_export.errors import RuntimeUnavailable


@pytest.fixture(scope="module")
def photos():
    return load_photos()


@pytest.fixture(scope="module")
def sizes():
    return [tuple(data._read(photograph).shape[1:]) for photograph in PHOTOGRAPHS]


def covered(patches, sizes) -> list[torch.Tensor]:
    """For every photograph, which of its pixels some patch shows, at any scale."""
    shown = [torch.zeros(size, dtype=torch.bool) for size in sizes]
    position = 0
    for group, width in enumerate(patches.widths.tolist()):
        label, scale = group // len(SCALES), SCALES[group % len(SCALES)]
        height = sizes[label][0] // scale
        corners = patches.corners[patches.starts[group] : patches.starts[group + 1]] - position
        level = torch.zeros(height * width)
        level[corners] = 1
        window = torch.nn.functional.pad(level.view(1, height, width), (IMAGE_SIZE - 1, 0) * 2)
        window = torch.nn.functional.max_pool2d(window, (IMAGE_SIZE, 1), stride=1)
        window = torch.nn.functional.max_pool2d(window, (1, IMAGE_SIZE), stride=1)[0] > 0
        pixels = window.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        shown[label][: pixels.shape[0], : pixels.shape[1]] |= pixels
        position += height * width
    return shown


def test_no_pixel_is_trained_on_and_held_out(photos, sizes):
    pairs = zip(covered(photos.training, sizes), covered(photos.held_out, sizes), strict=True)
    for size, (trained, held) in zip(sizes, pairs, strict=True):
        assert not (trained & held).any()
        assert not (trained & held_out_cells(*size)).any()
        assert held.float().mean() > 0.1
        assert trained.float().mean() > 0.6


def test_a_patch_is_a_piece_of_its_photograph(photos, sizes):
    """Found again at full resolution by its first line."""
    labels = torch.arange(NUM_CLASSES).repeat(20)
    patches = photos.training.cut(labels, torch.Generator().manual_seed(3))
    assert patches.shape == (len(labels), 3, IMAGE_SIZE, IMAGE_SIZE)
    assert patches.min() >= -1
    assert patches.max() <= 1
    image = data._read(PHOTOGRAPHS[0])
    lines = image.unfold(2, IMAGE_SIZE, 1)[:, : 1 - IMAGE_SIZE].permute(1, 2, 0, 3)
    found = 0
    for patch in patches[labels == 0]:
        for y, x in (lines == patch[:, 0]).flatten(2).all(2).nonzero().tolist():
            found += torch.equal(image[:, y : y + IMAGE_SIZE, x : x + IMAGE_SIZE], patch)
    assert found >= 3  # about a third of the patches are of the finest scale


def test_the_held_out_patches_are_always_the_same(photos):
    (first, labels), (second, _) = held_out_patches(photos, 50), held_out_patches(photos, 50)
    assert torch.equal(first, second)
    assert labels.tolist() == list(range(10)) * 5


def test_every_photograph_has_patches_of_every_scale(photos):
    for source in (photos.training, photos.held_out):
        counts = source.starts.diff()
        assert len(counts) == NUM_CLASSES * len(SCALES)
        assert counts.min() >= 100


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(data, "PHOTOGRAPHS", (Photograph("no_such_package", "a.png"),))
    with pytest.raises(RuntimeUnavailable, match="no_such_package"):
        load_photos()
