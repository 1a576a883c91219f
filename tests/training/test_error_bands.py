"""Coarse and fine errors."""

import pytest
import torch

from mpq_export.training.error_bands import banded, banded_squares

SHAPES = [(8, 8), (32, 32), (16, 12), (7, 10), (5, 33), (3, 2), (1, 1)]


@pytest.mark.parametrize("size", SHAPES)
def test_bands_add_up_to_the_error_and_so_do_their_squares(size):
    error = torch.randn(3, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(banded(error).sum(0), error)
    total = error.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(banded_squares(error).sum(1), total)


@pytest.mark.parametrize("size", SHAPES)
def test_a_shade_is_coarse(size):
    squares = banded_squares(torch.full((1, 3, *size), 2.0))
    torch.testing.assert_close(squares, torch.tensor([[4.0, 0.0]]))


def test_what_changes_from_pixel_to_pixel_is_fine():
    board = (torch.arange(64).view(8, 8) + torch.arange(8)[:, None]) % 2 * 2.0 - 1
    assert banded_squares(board[None, None]).tolist() == [[0.0, 1.0]]


def test_a_half_that_is_off_is_coarse_in_its_place():
    error = torch.zeros(1, 1, 16, 16)
    error[..., :8] = 1
    coarse, fine = banded(error)
    assert torch.equal(coarse, error)
    assert not fine.any()
