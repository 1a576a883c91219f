"""Full precision's trajectory, kept and followed."""

import numpy as np
import pytest

from mpq_export.evaluation.bench.trajectory import IMAGES, Recorder, Trajectory, errors_along


class Scaled:
    """Predicts a multiple of its sample."""

    array_type, model_config, selection = np.ndarray, {}, None

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, sample, timestep, **conditions):
        return self.factor * sample


@pytest.fixture
def trajectory(tmp_path):
    recorder, rng = Recorder(Scaled(1.0)), np.random.default_rng(0)
    for timestep in (9, 5, 1):
        sample = rng.normal(size=(IMAGES + 3, 1, 2, 2)).astype(np.float32)
        recorder(sample, timestep, class_labels=np.arange(IMAGES + 3))
    recorder.recording = False
    recorder(sample, 0)
    recorder.trajectory().save(tmp_path / "t.npz")
    return Trajectory.read(tmp_path / "t.npz")


def test_the_first_images_of_every_call_are_kept(trajectory):
    assert trajectory.timesteps.tolist() == [9, 5, 1]
    assert trajectory.samples.shape == (3, IMAGES, 1, 2, 2)
    assert trajectory.conditions["class_labels"].shape == (3, IMAGES)
    assert np.array_equal(trajectory.predictions, trajectory.samples)


def test_errors_are_relative_and_by_step(trajectory):
    assert errors_along(trajectory, Scaled(1.0)) == [0, 0, 0]
    assert errors_along(trajectory, Scaled(1.1)) == pytest.approx([0.1] * 3, rel=1e-5)


def test_graphs_are_fed_by_name(trajectory):
    first = trajectory.graph_inputs()[0]
    assert set(first) == {"sample", "timestep", "class_labels"}
    assert first["timestep"].dtype == np.float32
    assert first["timestep"].tolist() == [9]
