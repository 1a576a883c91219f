"""Options of a wrong type are found, and those that diffusers writes are not."""

import diffusers
import pytest

from mpq_export.bundle import SCHEDULER, read_bundle
from mpq_export.errors import BundleError, CheckpointError
from mpq_export.files import write_manifest
from mpq_export.samplers.noise_schedule import ScheduleConfig
from mpq_export.samplers.options import _Options, wrong_type
from mpq_export.samplers.registry import _SAMPLERS, is_known, open_sampler
from mpq_export.schedulers import build_scheduler

DDIM = {"_class_name": "DDIMScheduler"}


def test_what_diffusers_schedulers_are_by_themselves_is_right():
    looked_at = 0
    for name in dir(diffusers):
        if not name.endswith("Scheduler") or name.startswith("Flax"):
            continue
        try:
            config = dict(getattr(diffusers, name)().config)
        except (ImportError, TypeError):  # it needs another package, or arguments
            continue
        assert wrong_type(config | {"_class_name": name}) is None, name
        looked_at += 1
    assert looked_at > 20


def test_every_option_of_our_samplers_has_its_type_here():
    configs = {ScheduleConfig, *ScheduleConfig.__subclasses__()}
    assert len(configs) == len(_SAMPLERS) + 1
    for config in configs:
        assert config.model_fields.keys() <= _Options.model_fields.keys()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("_class_name", ["DDIMScheduler"]),
        ("_class_name", 3),
        ("clip_sample_range", "a"),
        ("dynamic_thresholding_ratio", "x"),
        ("prediction_type", 7),
        ("trained_betas", [[1, 2]]),
        ("trained_betas", "0.1"),
        ("clip_sample", "yes"),
        ("num_train_timesteps", 1000.0),
        ("beta_start", [0.1]),
    ],
)
def test_a_wrong_type_is_named_wherever_the_config_comes_from(option, value):
    config = DDIM | {option: value}
    fault = wrong_type(config)
    assert fault is not None
    assert fault.option.startswith(option)
    assert "Input should be" in fault.why
    with pytest.raises(CheckpointError):
        build_scheduler(config)


@pytest.mark.parametrize("change", [{}, {"clip_sample_range": 1}, {"trained_betas": None}])
def test_whole_numbers_and_null_are_right(change):
    assert wrong_type(DDIM | change) is None


def test_a_bundles_options_are_looked_at_when_it_is_read(handmade):
    file = handmade.path / SCHEDULER
    file.write_text('{"_class_name": ["DDIMScheduler"]}')
    write_manifest(handmade.path, ["config.json", "weights.safetensors", SCHEDULER])
    with pytest.raises(BundleError, match="'_class_name' is of a wrong type"):
        read_bundle(handmade.path)


@pytest.mark.parametrize("name", [["DDIMScheduler"], {}, None])
def test_a_class_that_is_no_name_is_not_known(name):
    assert not is_known({"_class_name": name})


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_quantile_beyond_all_is_refused(ratio):
    change = {"thresholding": True, "dynamic_thresholding_ratio": ratio}
    with pytest.raises(CheckpointError, match="dynamic_thresholding_ratio"):
        open_sampler(DDIM | change, 4)


def test_no_timestep_with_enough_signal_is_refused():
    config = {
        "_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing",
        "lambda_min_clipped": 1e9,
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot take 4 steps"):
        open_sampler(config, 4)
