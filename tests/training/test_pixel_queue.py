"""Rings of pixels by timestep."""

import torch

from mpq_export.training.pixel_queue import PixelQueue


def pushed(slots, *pushes, size=3):
    """A queue of one-channel pixels after pushes of (value, slot) pairs."""
    queue = PixelQueue(slots, size, 1)
    for pairs in pushes:
        values, places = zip(*pairs, strict=True)
        queue.push(torch.tensor(values, dtype=torch.float)[:, None], torch.tensor(places))
    return queue


def held(queue, per_slot=99, seed=0):
    return sorted(queue.sample(per_slot, torch.Generator().manual_seed(seed)).flatten().tolist())


def test_pixels_go_into_the_rings_of_their_timesteps():
    queue = pushed(4, [(1, 2), (2, 0), (3, 2)], [(4, 0)])
    state = queue.state()
    assert state["written"].tolist() == [2, 0, 2, 0]
    assert state["pixels"][0, :2].flatten().tolist() == [2, 4]
    assert state["pixels"][2, :2].flatten().tolist() == [1, 3]


def test_a_full_ring_forgets_its_oldest_pixels():
    assert held(pushed(1, [(1, 0), (2, 0)], [(3, 0), (4, 0)])) == [2, 3, 4]
    assert held(pushed(1, [(1, 0), (2, 0)], [(3, 0), (4, 0)], [(5, 0), (6, 0)])) == [4, 5, 6]


def test_of_a_push_that_overfills_a_ring_the_last_pixels_stay():
    queue = pushed(2, [(9, 0)], [(value, value % 2) for value in range(1, 12)])
    assert held(queue) == [6, 7, 8, 9, 10, 11]
    queue.push(torch.tensor([[12.0]]), torch.tensor([0]))
    assert held(queue) == [7, 8, 9, 10, 11, 12]


def test_rings_are_sampled_alike_and_only_where_they_are_filled():
    queue = pushed(4, [(i, 1) for i in range(10, 13)], [(20, 3)], [(30, 0), (31, 0)])
    samples = [held(queue, per_slot=2, seed=seed) for seed in range(30)]
    assert all(len(sample) == len(set(sample)) == 5 for sample in samples)
    assert all({20, 30, 31} <= set(sample) for sample in samples)
    assert {value for sample in samples for value in sample} == {10, 11, 12, 20, 30, 31}
    assert samples[0] == held(queue, per_slot=2, seed=0)


def test_a_state_is_a_copy_that_goes_on_alike():
    queue = pushed(2, [(1, 0), (2, 1)])
    again = PixelQueue.of_state(queue.state())
    for one in (queue, again):
        one.push(torch.tensor([[3.0], [4.0], [5.0]]), torch.tensor([0, 0, 0]))
    assert held(queue) == held(again) == [2, 3, 4, 5]
    saved = queue.state()
    queue.push(torch.tensor([[7.0]]), torch.tensor([1]))
    assert saved["written"].tolist() == [4, 1]
    assert 7.0 not in saved["pixels"]
