"""Relation distillation."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import fixtures
import pytest
import torch
from torch.nn.functional import normalize, softmax

from mpq_export.errors import RecipeError
from mpq_export.prediction import predict
from mpq_export.training.features import captured_features
from mpq_export.training.relations import (
    MemoryRelation,
    MemorySettings,
    TimeSmoothedRelation,
    TimeSmoothedSettings,
)
from mpq_export.training.trajectory_pool import PoolSettings, TrajectoryPool

STEPS = 4
SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
MEMORY = MemorySettings(capacity=80, sampled=32, pushed_per_image=5, rows_per_image=7)


def memory(gather=lambda tensor: tensor, **changes):
    return MemoryRelation(replace(MEMORY, **changes), STEPS, 1, gather)


def smoothed(rows=64):
    return TimeSmoothedRelation(TimeSmoothedSettings(rows_per_image=rows), 1)


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


def test_processes_share_one_memory_and_the_loss_is_their_mean(batches):
    shared, barrier = {}, Barrier(2)

    def process(rank):
        def gather(tensor):
            shared[rank] = tensor
            barrier.wait()
            every = torch.cat([shared[0], shared[1]])
            barrier.wait()
            return every

        relation, rows = memory(gather), slice(2 * rank, 2 * rank + 2)
        losses = [
            relation.loss(student_features(batch)[rows], rows_of(batch, rows)) for batch in batches
        ]
        return relation.state(), torch.stack(losses)

    with ThreadPoolExecutor(2) as threads:
        (one, left), (other, right) = threads.map(process, range(2))
    alone = memory()
    whole = torch.stack([alone.loss(student_features(batch), batch) for batch in batches])
    for state in (one, other):
        assert all(torch.equal(state[name], value) for name, value in alone.state().items())
    torch.testing.assert_close((left + right) / 2, whole)


def test_the_smoothed_loss_of_two_processes_is_their_mean(batches):
    relations = [smoothed(rows=8) for _ in range(3)]
    for batch in batches[:3]:
        parts = (slice(0, 4), slice(0, 2), slice(2, 4))
        whole, left, right = (
            relation.loss(student_features(batch)[rows], rows_of(batch, rows))
            for relation, rows in zip(relations, parts, strict=True)
        )
        torch.testing.assert_close((left + right) / 2, whole)


@pytest.mark.parametrize("wrong", [{"sampled": 0}, {"temperature": -1.0}, {"capacity": -5}])
def test_settings_are_checked(wrong):
    with pytest.raises(RecipeError):
        replace(MEMORY, **wrong)
