"""Full-precision trajectories."""

import torch

from mpq_export.checkpoints import load_checkpoint
from mpq_export.schedulers import build_scheduler
from mpq_export.training.trajectories import calls_per_step, full_precision_trajectory


def trajectory(checkpoint, seed):
    return list(
        full_precision_trajectory(
            checkpoint.model, checkpoint.model_config, checkpoint.scheduler_config, 3, 5, seed
        )
    )


def test_it_is_the_schedulers_own_sampling_loop(pipeline_folder):
    checkpoint = load_checkpoint(pipeline_folder)
    steps = trajectory(checkpoint, 3)
    scheduler = build_scheduler(checkpoint.scheduler_config)
    scheduler.set_timesteps(3)
    assert [int(step.timestep) for step in steps] == scheduler.timesteps.tolist()
    sample = steps[0].sample
    for step in steps:
        assert torch.equal(step.sample, sample)
        labels = step.conditions["class_labels"]
        expected = checkpoint.model(sample, step.timestep, class_labels=labels).sample
        assert torch.equal(step.prediction, expected)
        sample = scheduler.step(step.prediction, step.timestep, sample).prev_sample


def test_seeds_decide_noise_and_labels(pipeline_folder):
    checkpoint = load_checkpoint(pipeline_folder)
    one, again, other = (trajectory(checkpoint, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one.sample, again.sample)
    assert torch.equal(one.conditions["class_labels"], again.conditions["class_labels"])
    assert not torch.equal(one.sample, other.sample)
    assert set(one.conditions["class_labels"].tolist()) <= set(range(4))


def test_a_timestep_that_is_visited_twice_has_one_entry(pipeline_folder):
    checkpoint = load_checkpoint(pipeline_folder)
    config = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    steps = list(
        full_precision_trajectory(checkpoint.model, checkpoint.model_config, config, 4, 2, 0)
    )
    assert len(steps) == 5
    assert [step.entry for step in steps] == [0, 1, 1, 2, 3]
    assert steps[1].timestep == steps[2].timestep


def test_calls_bound_memory_and_change_nothing(pipeline_folder, monkeypatch):
    checkpoint = load_checkpoint(pipeline_folder)
    whole = trajectory(checkpoint, 1)
    monkeypatch.setattr("mpq_export.training.trajectories._ELEMENTS_AT_ONCE", 2 * 2 * 64)
    assert calls_per_step(checkpoint.model_config, 5) == 3
    for one, other in zip(whole, trajectory(checkpoint, 1), strict=True):
        torch.testing.assert_close(one.prediction, other.prediction)


def test_given_conditions_are_used(pipeline_folder):
    checkpoint = load_checkpoint(pipeline_folder)
    labels = {"class_labels": torch.tensor([3, 1])}
    steps = full_precision_trajectory(
        checkpoint.model, checkpoint.model_config, checkpoint.scheduler_config, 2, 2, 0, labels
    )
    assert all(step.conditions is labels for step in steps)
