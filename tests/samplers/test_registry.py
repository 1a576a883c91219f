"""What a sampler cannot follow exactly is refused by name."""

import numpy as np
import pytest

from mpq_export.errors import CheckpointError
from mpq_export.samplers.noise_schedule import MAX_TRAIN_TIMESTEPS
from mpq_export.samplers.registry import open_sampler

DDIM = {"_class_name": "DDIMScheduler"}
DPM = {"_class_name": "DPMSolverMultistepScheduler"}
EULER = {"_class_name": "EulerDiscreteScheduler"}
ANCESTRAL = {"_class_name": "EulerAncestralDiscreteScheduler"}


@pytest.mark.parametrize("name", [None, "", "PNDMScheduler", "open", 3, [], {}])
def test_other_schedulers_are_refused_with_those_there_are(name):
    with pytest.raises(
        CheckpointError, match="DDIMScheduler, DPMSolverMultistepScheduler"
    ) as error:
        open_sampler({"_class_name": name}, 4)
    assert "--scheduler" in error.value.fix


@pytest.mark.parametrize(
    "config",
    [
        DPM | {"algorithm_type": "sde-dpmsolver++"},
        DPM | {"use_lu_lambdas": True},
        DPM | {"use_flow_sigmas": True},
        DPM | {"solver_order": 4},
        DPM | {"prediction_type": "flow_prediction"},
        DPM | {"final_sigmas_type": "other"},
        EULER | {"use_beta_sigmas": True},
        EULER | {"use_exponential_sigmas": True},
        EULER | {"interpolation_type": "log_linear"},
        EULER | {"timestep_type": "continuous"},
        ANCESTRAL | {"prediction_type": "sample"},
        DDIM | {"beta_schedule": "exponential"},
        DDIM | {"timestep_spacing": "random"},
        DDIM | {"clip_sample": "yes"},
        DDIM | {"num_train_timesteps": 0},
        DDIM | {"num_train_timesteps": True},
        DDIM | {"num_train_timesteps": MAX_TRAIN_TIMESTEPS + 1},
        DDIM | {"trained_betas": [0.1, 0.2]},
        DDIM | {"beta_end": float("nan")},
        DDIM | {"beta_end": "0.02"},
    ],
    ids=lambda config: str(list(config.items())[1:]),
)
def test_options_that_are_not_implemented_are_named(config):
    option = list(config)[1]
    with pytest.raises(CheckpointError, match=option) as error:
        open_sampler(config, 4)
    assert "without diffusers" in error.value.what
    assert len(error.value.paragraph()) < 500


@pytest.mark.parametrize("config", [DDIM, DPM, EULER, ANCESTRAL])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(config, steps):
    with pytest.raises(CheckpointError, match="not possible") as error:
        open_sampler(config, steps)
    assert error.value.fix == "Choose 1 to 1000"


def test_diffusers_own_rounding_out_of_range_is_refused():
    """Trailing timesteps of 61 steps end at -1 there, and DDIM then reads the last noise level."""
    config = DDIM | {"timestep_spacing": "trailing"}
    assert open_sampler(config, 60).timesteps[-1] >= 0
    with pytest.raises(CheckpointError, match="cannot take 61 steps"):
        open_sampler(config, 61)


def test_keys_listed_as_defaults_are_ignored():
    plain = open_sampler(DDIM, 5).timesteps
    config = DDIM | {"timestep_spacing": "trailing", "_use_default_values": ["timestep_spacing"]}
    assert np.array_equal(open_sampler(config, 5).timesteps, plain)
    config["_use_default_values"] = "timestep_spacing"
    assert not np.array_equal(open_sampler(config, 5).timesteps, plain)
