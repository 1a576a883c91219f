"""A config moved to another scheduler keeps what it says of the model."""

import numpy as np
import pytest

from mpq_export.samplers.names import SchedulerName, with_scheduler
from mpq_export.samplers.registry import open_sampler

DDIM = {"_class_name": "DDIMScheduler", "beta_end": 0.03, "timestep_spacing": "trailing"}


def test_the_config_is_copied_and_the_schedule_kept():
    config = dict(DDIM)
    moved = with_scheduler(config, SchedulerName.EULER)
    assert config == DDIM
    assert moved == DDIM | {"_class_name": "EulerDiscreteScheduler"}
    assert with_scheduler(config, None) == with_scheduler(config, SchedulerName.DDIM) == DDIM


def test_dpm_solver_clips_where_ddim_did():
    config = DDIM | {"clip_sample": True, "thresholding": False}
    sampler = open_sampler(with_scheduler(config, SchedulerName.DPM_SOLVER), 4)
    wild = np.full((1, 1, 4, 4), 100, np.float32)
    _, (denoised,) = sampler.step(0, wild, -wild, (), lambda: wild)
    assert denoised.max() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"clip_sample": False},
        {"clip_sample": True, "clip_sample_range": 2.0},
        {"clip_sample": True, "thresholding": True, "sample_max_value": 1.5},
    ],
    ids=str,
)
def test_other_clipping_is_not_made_up(options):
    moved = with_scheduler(DDIM | options, SchedulerName.DPM_SOLVER)
    assert moved == DDIM | options | {"_class_name": "DPMSolverMultistepScheduler"}
