"""Schedulers from their configs, the timesteps they visit, and the lookup of the nearest one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpq_export.errors import CheckpointError
from mpq_export.schedulers import build_scheduler, nearest_step, sampling_schedule

DDIM = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "trailing"}


def test_the_config_decides_the_scheduler() -> None:
    scheduler = build_scheduler({**DDIM, "beta_end": 0.5, "steps_offset": 3})
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.beta_end == 0.5
    assert scheduler.config.steps_offset == 3


def test_the_config_is_left_alone() -> None:
    config = dict(DDIM)
    build_scheduler(config)
    assert config == DDIM


@pytest.mark.parametrize(
    "name",
    [None, "", "Nothing", "UNet2DModel", "DDIMPipeline", "SchedulerMixin", "__name__", 3, []],
)
def test_what_is_no_scheduler_is_refused(name: Any) -> None:
    with pytest.raises(CheckpointError, match="not a diffusers scheduler"):
        build_scheduler({"_class_name": name})


def test_a_config_without_a_class_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a diffusers scheduler"):
        build_scheduler({})


@pytest.mark.parametrize(
    "change",
    [
        {"beta_schedule": "exponential"},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "many"},
        {"num_train_timesteps": None},
        {"timestep_spacing": "random"},
    ],
    ids=str,
)
def test_values_that_no_scheduler_can_use_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        sampling_schedule({**DDIM, **change}, 4)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("trailing", [999, 749, 499, 249]),
        ("leading", [750, 500, 250, 0]),
        ("linspace", [999, 666, 333, 0]),
    ],
)
def test_ddim_visits_its_timesteps_in_order(spacing: str, expected: list[int]) -> None:
    timesteps = sampling_schedule({**DDIM, "timestep_spacing": spacing}, 4).timesteps
    assert timesteps.dtype == np.int32
    assert timesteps.tolist() == expected


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_other_schedulers_give_whole_timesteps(name: str) -> None:
    timesteps = sampling_schedule({"_class_name": name, "num_train_timesteps": 1000}, 5).timesteps
    assert timesteps.dtype == np.int32
    assert len(timesteps) == 5
    assert np.all(np.diff(timesteps) < 0)
    assert timesteps[0] <= 999
    assert timesteps[-1] >= 0


@pytest.mark.parametrize(
    ("name", "visits", "distinct"),
    [("PNDMScheduler", 6, 5), ("HeunDiscreteScheduler", 9, 5), ("DDIMScheduler", 5, 5)],
)
def test_steps_of_equal_timestep_share_an_entry(name: str, visits: int, distinct: int) -> None:
    config = {"_class_name": name, "skip_prk_steps": True}
    schedule, scheduler = sampling_schedule(config, 5), build_scheduler(config)
    scheduler.set_timesteps(5)
    assert (len(schedule.entries), len(schedule.timesteps)) == (visits, distinct)
    visited = schedule.timesteps[schedule.entries]
    np.testing.assert_array_equal(visited, np.rint(scheduler.timesteps.numpy()))
    assert list(dict.fromkeys(visited.tolist())) == schedule.timesteps.tolist()


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_logarithms_of_noise_are_no_timesteps(name: str) -> None:
    with pytest.raises(CheckpointError, match="does not visit whole timesteps"):
        sampling_schedule({"_class_name": name}, 20)


def test_every_timestep_may_be_visited() -> None:
    config = {**DDIM, "num_train_timesteps": 7}
    assert sampling_schedule(config, 7).timesteps.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert sampling_schedule(config, 1).timesteps.tolist() == [6]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(CheckpointError, match="not possible") as caught:
        sampling_schedule(DDIM, steps)
    assert caught.value.fix == "Choose 1 to 1000"


@pytest.mark.parametrize(
    ("timestep", "index"),
    [
        (999, 0), (2000, 0), (833, 0), (832.5, 0), (832.4, 1), (832, 1), (666, 1), (500.5, 1),
        (499.5, 1), (499.4, 2), (333, 2), (0, 3), (166.5, 2), (166, 3), (-5, 3),
    ],
)  # fmt: skip
def test_the_nearest_step_counts_and_ties_go_to_the_lower_index(
    timestep: float, index: int
) -> None:
    assert nearest_step(np.array([999, 666, 333, 0], np.int32), timestep) == index


def test_equal_timesteps_give_the_lower_index() -> None:
    timesteps = np.array([5, 9, 9, 5], np.int32)
    assert [nearest_step(timesteps, t) for t in (9, 5, 7, 7.5)] == [1, 0, 0, 1]


def test_distances_do_not_overflow() -> None:
    timesteps = np.array([-(2**31), 2**31 - 1], np.int32)
    assert [nearest_step(timesteps, t) for t in (2e9, -2e9, -1.0, 0.0)] == [1, 0, 0, 1]


def test_a_table_of_one_step_serves_all() -> None:
    assert [nearest_step(np.array([500], np.int32), t) for t in (0, 500, 1e30)] == [0, 0, 0]
