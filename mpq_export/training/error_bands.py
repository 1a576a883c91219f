"""Errors of a prediction in two bands: coarse ones, alike over wide areas of an image, and fine
ones. They are told apart because samplers tell them apart: the steps that follow remove a fine
error, and build the image on a coarse one."""

from __future__ import annotations

import torch
from torch.nn import functional

NUM_BANDS = 2
_BLOCKS = 4
"""Along each side of an image. Areas of one shade are that large in images of any size."""


def banded(error: torch.Tensor) -> torch.Tensor:
    """``[B, C, H, W]`` as its coarse and its fine part, ``[2, B, C, H, W]``.

    The coarse part is the mean of each of about 4 x 4 blocks, the fine part what is left: their sum
    is the error, and their squares add up to its squares.
    """
    height, width = error.shape[-2:]
    block = (-(-height // _BLOCKS), -(-width // _BLOCKS))
    means = functional.avg_pool2d(error, block, ceil_mode=True)
    coarse = means.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    coarse = coarse[..., :height, :width]
    return torch.stack([coarse, error - coarse])


def banded_squares(error: torch.Tensor) -> torch.Tensor:
    """Mean squares of the bands of each image, ``[B, 2]``; a row adds up to the image's."""
    return banded(error).square().flatten(2).mean(dim=2).T
