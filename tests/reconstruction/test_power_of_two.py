"""Votes for the steps of single channels."""

import torch

from mpq_export.reconstruction.power_of_two import vote_shifts

BITS, LARGEST = 4, 3
SCALE, ZERO = torch.tensor([1.0, 2.0]), torch.tensor([8.0, 8.0])


def votes(x, entries, agreement=0.85):
    return vote_shifts(x, entries, SCALE, ZERO, BITS, LARGEST, agreement).tolist()


def samples(spread, count=20):
    """Channels that reach ``spread`` at step 0 and twice that at step 1."""
    x = torch.rand(2 * count, len(spread), 400, generator=torch.Generator().manual_seed(0)) * 2 - 1
    entries = torch.arange(2 * count) % 2
    return x * torch.tensor(spread)[:, None] * (1.0 + entries)[:, None, None], entries


def test_small_channels_get_small_steps():
    x, entries = samples([7.0, 3.4, 1.7, 0.8, 0.0])
    # A channel that is 0 has no wish; of equal steps it keeps the largest.
    assert votes(x, entries) == [3, 2, 1, 0, 3]


def test_without_agreement_a_channel_keeps_the_tensors_step():
    x, entries = samples([0.8])
    assert votes(x, entries) == [0]
    loud = x.clone()
    loud[:8] *= 8  # 4 of the 20 samples of each step
    assert votes(loud, entries) == [3]
    assert votes(loud, entries, agreement=0.8) == [0]


def test_all_steps_are_one_electorate():
    x, entries = samples([0.8, 0.8])
    # Step 1 alone wants more in one channel: half of all samples.
    x[entries == 1, 0] *= 4
    assert votes(x, entries) == [3, 0]
