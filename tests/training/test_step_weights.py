"""Adaptive weights of steps."""

import pytest
import torch

from mpq_export.training.step_weights import StepWeights


def test_they_are_the_equation():
    """A power of 40 for 20 steps is one of 6 for three."""
    weights = StepWeights(3, power=40.0, memory=0.5)
    steps = torch.tensor([0, 2, 2])
    got = weights.update(torch.tensor([1.0, 2.0, 4.0]), steps)
    # Means 1 and 3, and theirs for the step that was not seen.
    every = torch.tensor([5 / 6, 4 / 6, 3 / 6]) ** 6
    torch.testing.assert_close(got, every[steps] / every.mean())
    got = weights.update(torch.tensor([4.0, 2.0]), torch.tensor([1, 0]))
    # The first step's: (0.25 * 1 + 0.5 * 2) / 0.75.
    means = torch.tensor([5 / 3, 4.0, 3.0])
    every = (1 - means / means.sum()) ** 6
    torch.testing.assert_close(got, every[[1, 0]] / every.mean())


def test_a_step_seen_less_often_does_not_count_more():
    weights, every = StepWeights(2, power=20.0, memory=0.95), torch.arange(2)
    for _ in range(5):
        weights.update(torch.ones(1), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(weights.update(torch.ones(2), every), torch.ones(2))


def test_a_saved_state_goes_on_with_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    losses, steps = torch.rand(4, 3, generator=generator), torch.arange(3)
    whole, other = (StepWeights(3, 20.0, 0.9) for _ in range(2))
    for row in losses[:2]:
        whole.update(row, steps)
    other.load(whole.state().clone())
    for row in losses[2:]:
        assert torch.equal(whole.update(row, steps), other.update(row, steps))


def test_processes_that_tell_parts_of_a_batch_know_all_of_it():
    losses, steps = torch.tensor([1.0, 5.0, 3.0, 2.0]), torch.tensor([0, 1, 1, 2])
    alone = StepWeights(3, 20.0, 0.9)
    expected = alone.update(losses, steps)
    told = torch.zeros(2, 3).index_add_(1, steps, torch.stack([losses, torch.ones(4)]))
    for part in (slice(0, 2), slice(2, 4)):
        shared = StepWeights(3, 20.0, 0.9, summed=lambda own: told)
        assert torch.equal(shared.update(losses[part], steps[part]), expected[part])


@pytest.mark.parametrize("count", [1, 2, 3, 20, 250])
@pytest.mark.parametrize("power", [20.0, 1000.0])
def test_one_on_average_however_many_steps_there_are(count, power):
    weights, steps = StepWeights(count, power, memory=0.95), torch.arange(count)
    losses = torch.rand(count, generator=torch.Generator().manual_seed(0)) + 0.01
    for _ in range(3):
        got = weights.update(losses, steps)
    assert got.mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("count", [10, 20, 250])
def test_a_step_of_twice_the_loss_counts_as_much_less_among_any_number(count):
    weights, steps = StepWeights(count, 20.0, memory=0.0), torch.arange(count)
    losses = torch.ones(count)
    losses[0] = 2
    got = weights.update(losses, steps)
    assert float(got[1] / got[0]) == pytest.approx(2.718, rel=0.12)


def test_steps_with_large_losses_count_less():
    weights = StepWeights(4, power=20.0, memory=0.95)
    steps = torch.arange(4)
    for _ in range(5):
        got = weights.update(torch.tensor([1.0, 2.0, 3.0, 10.0]), steps)
    assert got.tolist() == sorted(got.tolist(), reverse=True)
    assert got[0] > 10 * got[3]


@pytest.mark.parametrize("power", [0.0, 20.0])
def test_nothing_is_no_number(power):
    """Without power all count alike, and where nothing is lost yet."""
    weights = StepWeights(2, power, memory=0.95)
    losses = torch.zeros(2, requires_grad=True)
    got = weights.update(losses, torch.arange(2))
    assert got.tolist() == [1.0, 1.0]
    assert not got.requires_grad
