"""Relation distillation."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import fixtures
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize, softmax

from mpq_export.prediction import predict
from mpq_export.training.features import captured_features
from mpq_export.training.relation_settings import MemorySettings, TimeSmoothedSettings
from mpq_export.training.relations import (
    MemoryRelation,
    TimeSmoothedRelation,
)
from mpq_export.training.trajectory_pool import PoolSettings, TrajectoryPool

STEPS = 4
SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
MEMORY = MemorySettings(capacity=80, sampled=32, pushed_per_image=5, rows_per_image=7)


def memory(gather=lambda tensor: tensor, **changes):
    return MemoryRelation(MEMORY.model_copy(update=changes), STEPS, 1, gather)


def smoothed(rows=64, **options):
    return TimeSmoothedRelation(TimeSmoothedSettings(rows_per_image=rows), 1, **options)


RELATIONS = pytest.mark.parametrize("relation_of", [memory, smoothed])


@pytest.fixture(scope="module")
def teacher():
    return fixtures.tiny_unet()


@pytest.fixture(scope="module")
def config(teacher):
    return {**teacher.config, "_class_name": "UNet2DModel"}


@pytest.fixture(scope="module")
def batches(teacher, config):
    pool = TrajectoryPool(teacher, config, SCHEDULER, PoolSettings(2, 2, STEPS), seed=5)
    return [pool.next() for _ in range(8)]


def student_features(batch, seed=0):
    generator = torch.Generator().manual_seed(1000 * seed + batch.update)
    return batch.features + 0.3 * torch.randn(batch.features.shape, generator=generator)


def log_rows(pixels, others, temperature):
    similarity = normalize(pixels, dim=-1) @ normalize(others, dim=-1).transpose(-1, -2)
    return softmax(similarity / temperature, dim=-1).log()


def divergence(teacher, student):
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


@RELATIONS
def test_equal_features_have_no_loss_and_others_have_some(relation_of, batches):
    same, other = relation_of(), relation_of()
    for batch in batches:
        assert same.loss(batch.features, batch) == 0
        assert other.loss(student_features(batch), batch) > 1e-4


@RELATIONS
def test_the_loss_moves_the_weights_of_a_student(relation_of, batches, config):
    student = fixtures.tiny_unet(seed=8)
    relation = relation_of()
    for batch in batches[:2]:
        student.zero_grad()
        with captured_features(student, config) as features:
            predict(student, config, batch.sample, batch.timesteps, batch.conditions)
        relation.loss(features.pixels, batch).backward()
        gradients = [
            student.conv_in.weight.grad,
            student.up_blocks[-1].resnets[0].conv1.weight.grad,
        ]
        assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert not any(value.requires_grad for value in relation.state().values())


@RELATIONS
def test_training_on_the_loss_alone_brings_the_relations_nearer(relation_of, batches):
    """It is a loss that can be descended: free features, the same batch again and again."""
    batch = replace(batches[0], steps=torch.zeros(4, dtype=torch.long))
    features = student_features(batch).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.05)
    losses = []
    for _ in range(30):
        loss = relation_of().loss(features, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


@RELATIONS
def test_a_resumed_relation_goes_on_with_the_same_bits(relation_of, batches):
    whole, first, resumed = relation_of(), relation_of(), relation_of()
    losses = [whole.loss(student_features(batch), batch) for batch in batches]
    for batch in batches[:5]:
        first.loss(student_features(batch), batch)
    resumed.observe(batches[7])  # what is loaded replaces what was seen
    resumed.load(first.state())
    for batch, expected in zip(batches[5:], losses[5:], strict=True):
        assert torch.equal(resumed.loss(student_features(batch), batch), expected)


@RELATIONS
def test_a_relation_can_be_saved_before_it_has_seen_anything(relation_of, batches):
    resumed = relation_of()
    resumed.load(relation_of().state())
    expected = relation_of().loss(student_features(batches[0]), batches[0])
    assert torch.equal(resumed.loss(student_features(batches[0]), batches[0]), expected)


def test_the_memory_holds_the_teachers_pixels_by_timestep(batches):
    relation = memory()
    for batch in batches[:3]:
        relation.observe(batch)
    state = relation.state()
    # 2 groups of 2 images leave 5 pixels each: group 0 was at steps 0, 1, 2, group 1 at 2, 3, 0.
    assert state["written"].tolist() == [20, 10, 20, 10]
    for entry in range(STEPS):
        known = torch.cat([b.features[b.entries == entry].flatten(0, 1) for b in batches[:3]])
        count = min(20, int(state["written"][entry]))
        distances = torch.cdist(state["pixels"][entry, :count], normalize(known, dim=-1))
        assert float(distances.amin(dim=1).max()) < 1e-3


def test_the_memory_relation_is_the_published_formula(batches):
    """With every pixel sampled and every row compared, in plain words."""
    relation = memory(sampled=10_000, rows_per_image=64)
    relation.observe(batches[0])
    batch, features = batches[1], student_features(batches[1])
    loss = relation.loss(features, batch)
    state = relation.state()
    filled = zip(state["pixels"], state["written"].clamp(max=20), strict=True)
    others = torch.cat([pixels[:count] for pixels, count in filled])
    assert len(others) == 40
    expected = divergence(log_rows(batch.features, others, 0.1), log_rows(features, others, 0.1))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_the_smoothed_relation_is_the_published_formula(batches):
    """Group 0 begins at update 4, group 1 has a step behind it."""
    relation = smoothed()
    for batch in batches[:4]:
        relation.loss(student_features(batch), batch)
    earlier, batch = batches[3], batches[4]
    assert batch.steps.tolist() == [0, 0, 2, 2]

    def mean(now, before):
        return torch.cat([now[:2], (now[2:] + before[2:]) / 2])

    teacher = mean(batch.features, earlier.features)
    student = mean(student_features(batch), student_features(earlier))
    expected = divergence(log_rows(teacher, teacher, 1), log_rows(student, student, 1))
    loss = relation.loss(student_features(batch), batch)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_few_rows_stand_for_all(batches):
    features = student_features(batches[0])
    whole = smoothed().loss(features, batches[0])
    parts = [
        smoothed(rows=8).loss(features, replace(batches[0], update=update)) for update in range(60)
    ]
    assert len({float(part) for part in parts}) == 60
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=0.1, atol=0)


def rows_of(batch, rows):
    return replace(
        batch, entries=batch.entries[rows], steps=batch.steps[rows], features=batch.features[rows]
    )


def in_two_processes(work):
    """Results of ``work(rank, gather)`` in two threads that gather each other's tensors."""
    shared, barrier = {}, Barrier(2, timeout=60)

    def process(rank):
        def gather(tensor):
            shared[rank] = tensor
            barrier.wait()
            every = torch.cat([shared[0], shared[1]])
            barrier.wait()
            return every

        return work(rank, gather)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(process, range(2)))


def losses_of_half(relation, rank, batches):
    rows = slice(2 * rank, 2 * rank + 2)
    return torch.stack(
        [relation.loss(student_features(batch)[rows], rows_of(batch, rows)) for batch in batches]
    )


@RELATIONS
def test_the_loss_and_state_of_two_processes_are_those_of_one(relation_of, batches):
    def process(rank, gather):
        relation = relation_of(gather=gather)
        return losses_of_half(relation, rank, batches), relation.state()

    (left, one), (right, other) = in_two_processes(process)
    alone = relation_of()
    whole = torch.stack([alone.loss(student_features(batch), batch) for batch in batches])
    torch.testing.assert_close((left + right) / 2, whole)
    for state in (one, other):
        assert state.keys() == alone.state().keys()
        assert all(torch.equal(state[name], value) for name, value in alone.state().items())


def test_two_processes_resume_from_one_state(batches):
    """Each finds its own rows of the step before."""

    def process(rank, gather):
        whole, first = (smoothed(gather=gather, rank=rank) for _ in range(2))
        expected = losses_of_half(whole, rank, batches)
        losses_of_half(first, rank, batches[:3])
        resumed = smoothed(gather=gather, rank=rank)
        resumed.load(first.state())
        return losses_of_half(resumed, rank, batches[3:]), expected[3:]

    for losses, expected in in_two_processes(process):
        assert torch.equal(losses, expected)


@pytest.mark.parametrize("wrong", [{"sampled": 0}, {"temperature": -1.0}, {"capacity": -5}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        MemorySettings(**wrong)
