"""Every sampler follows diffusers: the same timesteps, the same trajectory, the same noise."""

import inspect

import diffusers
import numpy as np
import pytest
import torch

from mpq_export.errors import CheckpointError
from mpq_export.samplers.ddim import DdimConfig
from mpq_export.samplers.dpm_solver import DpmSolverConfig
from mpq_export.samplers.euler import EulerAncestralConfig, EulerConfig
from mpq_export.samplers.names import SchedulerName, with_scheduler
from mpq_export.samplers.registry import open_sampler
from mpq_export.samplers.torch_noise import TorchNoise
from mpq_export.schedulers import build_scheduler

SHAPE = (2, 3, 5, 7)
CONFIGS = {
    "DDIMScheduler": DdimConfig,
    "DPMSolverMultistepScheduler": DpmSolverConfig,
    "EulerDiscreteScheduler": EulerConfig,
    "EulerAncestralDiscreteScheduler": EulerAncestralConfig,
}
WITHOUT_EFFECT = {
    "flow_shift": "read with use_flow_sigmas alone",
    "use_dynamic_shifting": "allows an argument mu that is never given",
    "time_shift_type": "the same",
    "variance_type": "cuts a learned variance off the prediction, which is always done",
}
READ_ALTHOUGH_NO_OPTION = {"DPMSolverMultistepScheduler": {"sigma_min", "sigma_max"}}

SHARED = {
    "num_train_timesteps": [1000, 1000, 1000, 250],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "beta_start": [0.0001, 0.00085],
    "beta_end": [0.02, 0.012],
    "prediction_type": ["epsilon", "sample", "v_prediction"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [0, 1],
}
CLIPPED = {
    "thresholding": [False, False, True],
    "dynamic_thresholding_ratio": [0.995, 0.9],
    "sample_max_value": [1.0, 1.5],
}
KARRAS = {
    "use_karras_sigmas": [False, True],
    "final_sigmas_type": ["zero", "sigma_min"],
    "sigma_min": [None, 0.05],
    "sigma_max": [None, 20.0],
}
OWN = {
    "DDIMScheduler": {
        "clip_sample": [True, False],
        "clip_sample_range": [1.0, 1.7],
        "set_alpha_to_one": [True, False],
        **CLIPPED,
    },
    "DPMSolverMultistepScheduler": {
        "solver_order": [1, 2, 3],
        "solver_type": ["midpoint", "heun"],
        "lower_order_final": [True, False],
        "euler_at_final": [True, False],
        "lambda_min_clipped": [-5.1, -20.0],
        "variance_type": [None, "learned_range"],
        **CLIPPED,
        **KARRAS,
    },
    "EulerDiscreteScheduler": KARRAS,
    "EulerAncestralDiscreteScheduler": {"prediction_type": ["epsilon", "v_prediction"]},
}


def random_config(name, seed):
    """A config with each option drawn, and sometimes betas of its own."""
    rng = np.random.default_rng(seed)
    options = {**SHARED, **OWN[name]}
    config = {key: values[rng.integers(len(values))] for key, values in options.items()}
    config["rescale_betas_zero_snr"] = bool(rng.random() < 0.25)
    # Without signal left, noise says nothing of the image: diffusers divides by zero there.
    if config["rescale_betas_zero_snr"] and config["prediction_type"] == "epsilon":
        config["prediction_type"] = "v_prediction"
    if rng.random() < 0.2:
        betas = rng.uniform(0.0005, 0.02, config["num_train_timesteps"])
        config["trained_betas"] = np.sort(betas).astype(np.float32).tolist()
    return {"_class_name": name, **config}, int(rng.integers(1, 30))


@pytest.fixture(autouse=True)
def correctly_rounded_roots(monkeypatch):
    """torch takes square roots from MKL, which on some processors are off by a unit in the last
    place: next to nothing, but schedules without signal at their end divide by what is left."""
    power = torch.Tensor.__pow__

    def root(x):
        return x.double().pow(0.5).to(x.dtype)

    monkeypatch.setattr(torch, "sqrt", root)
    monkeypatch.setattr(torch.Tensor, "sqrt", root)
    monkeypatch.setattr(
        torch.Tensor, "__pow__", lambda x, by: root(x) if by == 0.5 else power(x, by)
    )


def predict(scaled, timestep):
    """A smooth denoiser that depends on everything it is given."""
    return (0.8 * np.sin(1.3 * scaled + timestep / 250) + 0.2 * scaled[::-1]).astype(np.float32)


def diffusers_images(config, num_steps, seed, eta=0.0):
    """Diffusers' own steps."""
    scheduler = build_scheduler(config)
    scheduler.set_timesteps(num_steps)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    accepted = inspect.signature(scheduler.step).parameters
    options = {"generator": generator, "eta": eta}
    options = {key: value for key, value in options.items() if key in accepted}
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        prediction = torch.from_numpy(predict(scaled.numpy(), float(timestep)))
        sample = scheduler.step(prediction, timestep, sample, **options).prev_sample
    return scheduler.timesteps.numpy(), sample.numpy()


def numpy_images(sampler, seed):
    """Our steps."""
    noise = TorchNoise(seed)
    sample = noise(SHAPE) * np.float32(sampler.initial_noise_scale)
    history = ()
    for index, timestep in enumerate(sampler.timesteps):
        prediction = predict(sampler.scale_input(sample, index), float(timestep))
        with np.errstate(all="ignore"):
            sample, history = sampler.step(index, sample, prediction, history, lambda: noise(SHAPE))
    assert sample.dtype == np.float32
    return sampler.timesteps, sample


def assert_same(ours, theirs, noise_scale=1.0):
    assert len(ours[0]) == len(theirs[0])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-3)
    if np.issubdtype(theirs[0].dtype, np.integer):
        np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(np.isfinite(ours[1]), np.isfinite(theirs[1]))
    # Noise of standard deviation s in float32 is rounded by s times its precision.
    tolerance = 1e-5 * np.abs(theirs[1]).max() + 2 * np.finfo(np.float32).eps * noise_scale
    assert not np.any(np.abs(ours[1] - theirs[1]) > tolerance)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(60))
def test_trajectories_of_random_configs(name, seed):
    """Where ours is refused, diffusers skips a step and runs out of noise levels."""
    config, num_steps = random_config(name, seed)
    try:
        sampler = open_sampler(config, num_steps)
    except CheckpointError:
        with pytest.raises(IndexError):
            diffusers_images(config, num_steps, seed)
        return
    theirs = diffusers_images(config, num_steps, seed)
    assert_same(numpy_images(sampler, seed), theirs, sampler.initial_noise_scale)


def test_random_configs_are_rarely_refused():
    """Else the comparison above would compare little."""
    refused = 0
    for name in CONFIGS:
        for seed in range(60):
            try:
                open_sampler(*random_config(name, seed))
            except CheckpointError:
                refused += 1
    assert refused < 20


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_are_those_of_diffusers(name):
    config = {"_class_name": name}
    assert_same(numpy_images(open_sampler(config, 20), 0), diffusers_images(config, 20, 0))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_of_diffusers_is_honoured_refused_or_without_effect(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    theirs = {key: value.default for key, value in parameters.items() if key != "self"}
    fields = CONFIGS[name].model_fields
    ours = {key: field.default for key, field in fields.items()}
    extra = READ_ALTHOUGH_NO_OPTION.get(name, set())
    assert {key: ours[key] for key in ours.keys() - extra} == {
        key: theirs[key] for key in theirs.keys() - WITHOUT_EFFECT.keys()
    }


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta):
    from dataclasses import replace

    config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    sampler = replace(open_sampler(config, 10), eta=eta)
    assert_same(numpy_images(sampler, 3), diffusers_images(config, 10, 3, eta))
    still = numpy_images(open_sampler(config, 10), 3)
    assert not np.allclose(numpy_images(sampler, 3)[1], still[1], atol=0.01)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_all_numbers_of_steps(name, spacing):
    """Equal timesteps, or refused where diffusers leaves the training's range or repeats one."""
    config = {"_class_name": name, "num_train_timesteps": 200, "timestep_spacing": spacing}
    scheduler, refused = build_scheduler(config), 0
    for num_steps in range(1, 201):
        scheduler.set_timesteps(num_steps)
        theirs = scheduler.timesteps.numpy()
        try:
            ours = open_sampler(config, num_steps).timesteps
        except CheckpointError:
            refused += 1
            assert theirs.min() < 0 or (theirs == theirs[0]).sum() > 1
        else:
            np.testing.assert_array_equal(ours, theirs)
    assert refused < 20


@pytest.mark.parametrize("scheduler", SchedulerName)
@pytest.mark.parametrize("origin", CONFIGS)
def test_a_swapped_config_is_what_diffusers_makes_of_it(scheduler, origin):
    """With the options of the origin that diffusers keeps, and those that it ignores."""
    saved = build_scheduler({"_class_name": origin, "beta_schedule": "scaled_linear"}).config
    config = with_scheduler({**saved, "lambda_min_clipped": -8.0}, scheduler)
    theirs = getattr(diffusers, config["_class_name"]).from_config(
        {key: value for key, value in config.items() if key != "_class_name"}
    )
    assert type(build_scheduler(config)) is type(theirs)
    assert_same(numpy_images(open_sampler(config, 12), 1), diffusers_images(config, 12, 1))


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
def test_noise_is_that_of_torch(seed):
    generator, noise = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for shape in [(16,), (3, 11), (2, 1, 16, 16), (17,), (1, 4, 5, 7)]:
        expected = torch.randn(shape, generator=generator).numpy()
        np.testing.assert_allclose(noise(shape), expected, rtol=0, atol=1e-6)


def test_small_noise_is_still_normal():
    noise = TorchNoise(0)
    numbers = np.concatenate([noise((5,)) for _ in range(2000)])
    assert abs(numbers.mean()) < 0.03
    assert abs(numbers.std() - 1) < 0.03
