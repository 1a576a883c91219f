"""Full-precision trajectories."""

import torch

from mpq_export.checkpoints import load_checkpoint
from mpq_export.schedulers import build_scheduler
from mpq_export.training.trajectories import full_precision_trajectory


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
