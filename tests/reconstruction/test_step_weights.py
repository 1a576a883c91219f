"""Adaptive weights of steps."""

import pytest
import torch

from mpq_export.reconstruction.step_weights import StepWeights


def test_they_are_the_equation():
    weights = StepWeights(3, power=2.0, memory=0.5)
    steps = torch.tensor([0, 2, 2])
    got = weights.update(torch.tensor([1.0, 2.0, 4.0]), steps)
    # Running means 0.5, 0, 1.5.
    torch.testing.assert_close(got, torch.tensor([(1 - 0.25) ** 2, 0.25**2, 0.25**2]))
    got = weights.update(torch.tensor([4.0]), torch.tensor([1]))
    torch.testing.assert_close(got, torch.tensor([(1 - 2 / 4) ** 2]))


def test_steps_with_large_losses_count_less():
    weights = StepWeights(4, power=20.0, memory=0.95)
    steps = torch.arange(4)
    for _ in range(5):
        got = weights.update(torch.tensor([1.0, 2.0, 3.0, 10.0]), steps)
    assert got.tolist() == sorted(got.tolist(), reverse=True)
    assert got[0] > 100 * got[3]


@pytest.mark.parametrize("power", [0.0, 20.0])
def test_nothing_is_no_number(power):
    """Without power all count alike, and where nothing is lost yet."""
    weights = StepWeights(2, power, memory=0.95)
    losses = torch.zeros(2, requires_grad=True)
    got = weights.update(losses, torch.arange(2))
    assert got.tolist() == [1.0, 1.0]
    assert not got.requires_grad
