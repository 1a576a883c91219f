"""Low-rank branches: what they begin as, and in which order their columns are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mpq_export.core.layers import weight_matrix
from mpq_export.core.low_rank import error_branch, zero_branch


def matrices_by_tap(weight: torch.Tensor) -> np.ndarray:
    """The matrix ``[O, I]`` of every tap of an OIHW weight, in row-major order of taps."""
    return weight.detach().numpy().transpose(2, 3, 0, 1).reshape(-1, *weight.shape[:2])


def best_of_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.mark.parametrize("rank", [1, 3, 100])
@pytest.mark.parametrize("shape", [(7, 5, 3, 2), (4, 9, 1, 1), (6, 2, 2, 3)])
def test_an_error_is_approximated_best_tap_by_tap(shape, rank):
    """Eckart and Young, for every tap of a convolution on its own."""
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], shape[0], shape[2:])
    taps = shape[2] * shape[3]
    branch = error_branch(weight_matrix(conv), taps, rank)
    expected = torch.from_numpy(
        np.stack([best_of_rank(tap, rank) for tap in matrices_by_tap(conv.weight)])
    ).float()
    merged = expected.unflatten(0, shape[2:]).permute(2, 0, 1, 3).flatten(1)
    torch.testing.assert_close(branch(), merged, rtol=1e-4, atol=1e-6)
    kept = min(rank, *shape[:2])
    assert branch.down.shape == (taps, kept, shape[1])
    assert branch.up.shape == (taps, shape[0], kept)


def test_both_factors_are_of_one_size():
    """Each has the square root of the singular values, so that one rate suits both."""
    torch.manual_seed(0)
    branch = error_branch(torch.randn(6, 10), 1, 2)
    ups, downs = branch.up[0].norm(dim=0), branch.down[0].norm(dim=1)
    torch.testing.assert_close(ups, downs)


def test_columns_are_in_the_order_of_weight_matrices():
    """Factors set for one tap alone change that tap alone."""
    conv = nn.Conv2d(3, 4, (2, 3))
    branch = zero_branch(4, 18, 6, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        conv.weight.zero_()
        for tap in range(6):
            branch.up[tap] = torch.randn(4, 2, generator=torch.Generator().manual_seed(tap))
            i, j = divmod(tap, 3)
            conv.weight[:, :, i, j] = branch.up[tap] @ branch.down[tap]
        torch.testing.assert_close(branch(), weight_matrix(conv))


def test_a_zero_start_is_zero_and_depends_on_its_generator():
    first, again, other = (
        zero_branch(8, 27, 9, 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert not torch.any(first())
    assert torch.equal(first.down, again.down)
    assert not torch.equal(first.down, other.down)
    assert first.down.abs().max() <= 1 / np.sqrt(3)
    loss = (first() - 1).square().sum()
    loss.backward()
    assert torch.any(first.up.grad != 0), "the second factor is what begins to learn"


@pytest.mark.parametrize(("rows", "columns", "taps"), [(2, 36, 9), (8, 9, 9)])
def test_no_rank_is_above_what_a_tap_has(rows, columns, taps):
    error = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    most = min(rows, columns // taps)
    assert zero_branch(rows, columns, taps, 32, torch.Generator()).up.shape == (taps, rows, most)
    torch.testing.assert_close(error_branch(error, taps, 32)(), error)
