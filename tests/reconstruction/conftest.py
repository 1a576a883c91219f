"""The tiny model, and what is recorded of its own trajectories."""

import fixtures
import pytest


@pytest.fixture(scope="module")
def model():
    return fixtures.tiny_unet()


@pytest.fixture(scope="module")
def walk(model):
    from tiny_walk import CONFIG, SCHEDULER

    from mpq_export.reconstruction.walk import CalibrationWalk
    from mpq_export.training.trajectories import full_precision_trajectory

    walk = CalibrationWalk()
    trajectory = full_precision_trajectory(model, CONFIG, SCHEDULER, fixtures.NUM_STEPS, 4, 0)
    assert len(list(walk.keeping(trajectory))) == fixtures.NUM_STEPS
    return walk
