"""What an error at a step does to the image: closed form for a model that ignores its input."""

import fixtures
import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel

from mpq_export.core.trained_layer import BatchEntries
from mpq_export.errors import RecipeError
from mpq_export.prediction import predict
from mpq_export.schedulers import build_scheduler
from mpq_export.training import error_sensitivity as module
from mpq_export.training.condition_rows import drawn_conditions
from mpq_export.training.error_bands import banded
from mpq_export.training.error_sensitivity import (
    error_sensitivity,
    error_weights,
    probed_steps,
    walked_predictions,
)
from mpq_export.training.student import Student
from mpq_export.training.trajectory_pool import PoolSettings

DDIM = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "clip_sample": False}
SOLVER = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
EULER = {"_class_name": "EulerAncestralDiscreteScheduler"}
CONFIG = {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 2, "out_channels": 2}


class Constant(torch.nn.Module):
    """Predicts the same for every image and timestep."""

    def __init__(self):
        super().__init__()
        self.prediction = torch.nn.Parameter(torch.linspace(-1, 1, 128).reshape(1, 2, 8, 8))

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        return (self.prediction.expand(sample.shape),)


class Erring(torch.nn.Module):
    """A student: its teacher, with errors of this form."""

    def __init__(self, teacher, error=torch.randn_like):
        super().__init__()
        self.teacher, self.error = teacher, error

    def forward(self, *args, **kwargs):
        prediction, *_ = self.teacher(*args, **kwargs)
        return (prediction + 0.3 * self.error(prediction),)


def student_of(model, error=torch.randn_like):
    return Student(Erring(model, error), {}, BatchEntries())


def measured(model, config, scheduler=DDIM, progress=None, seed=3, student=None, **settings):
    settings = PoolSettings(**{"groups": 1, "images_per_group": 1, "num_steps": 6, **settings})
    torch.manual_seed(seed)
    return error_sensitivity(
        model, student or student_of(model), config, scheduler, settings, seed, None,
        torch.device("cpu"), progress or fixtures.SilentProgress(),
    )  # fmt: skip


class Louder(Constant):
    """Predicts its input by how large that is: what is parallel to the input counts most."""

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        power = sample.square().mean(dim=(1, 2, 3), keepdim=True)
        return (sample * power / (1 + power),)


def tiny_dit():
    dit = DiTTransformer2DModel(
        sample_size=8, in_channels=2, out_channels=4, num_layers=1, patch_size=2,
        num_attention_heads=2, attention_head_dim=6, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    with torch.no_grad():  # as initialised, it predicts zero
        for parameter in dit.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape))
    return dit


def ddim_coefficients(num_steps):
    """By hand, for steps that divide 1000.

    x' = (a'/a) x + (s' - a' s / a) e, a and s being the shares of signal and noise; an error of e
    is carried through the steps that follow.
    """
    scheduler = build_scheduler(DDIM)
    scheduler.set_timesteps(num_steps)
    signal = scheduler.alphas_cumprod[scheduler.timesteps].double()
    after = torch.cat([signal[1:], torch.ones(1, dtype=torch.float64)])
    carried = (after / signal).sqrt()
    entering = (1 - after).sqrt() - carried * (1 - signal).sqrt()
    later = torch.cat([carried.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
    return (entering * later).abs().float()


def test_a_model_that_ignores_its_input_leaves_errors_to_the_sampler():
    for band in measured(Constant(), CONFIG, num_steps=5).T:
        torch.testing.assert_close(band, ddim_coefficients(5), rtol=1e-3, atol=1e-5)


def test_steps_between_probes_are_interpolated():
    """Every second of many steps is walked, first and last among them."""
    steps, exact = measured(Constant(), CONFIG, num_steps=40)[:, 1], ddim_coefficients(40)
    probes = probed_steps(40)
    assert len(probes) == len(set(probes)) == module.MAX_PROBES
    assert (probes[0], probes[-1]) == (0, 39)
    torch.testing.assert_close(steps[probes], exact[probes], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(steps, exact, rtol=0.1, atol=0)


@pytest.mark.parametrize("kind", ["unet", "louder"])
def test_it_is_what_one_disturbed_prediction_changes_whatever_the_model(kind):
    """A walk with a model that does look at its input, written out."""
    unet = fixtures.tiny_unet() if kind == "unet" else Louder()
    config = {**unet.config, "_class_name": "UNet2DModel"} if kind == "unet" else CONFIG
    labels = drawn_conditions(config, 64, seed=1)

    def noise_of(band, shape, generator):
        noise = banded(torch.randn(shape, generator=generator))[band]
        return noise / noise.square().mean().sqrt()

    def image(disturbed, band):
        scheduler = build_scheduler(DDIM)
        scheduler.set_timesteps(6)
        generator = torch.Generator().manual_seed(1)
        shape = (64, config["in_channels"], config["sample_size"], config["sample_size"])
        sample = torch.randn(shape, generator=generator)
        error = 0.05 * noise_of(band, shape, generator)
        for step, timestep in enumerate(scheduler.timesteps):
            with torch.no_grad():
                prediction = predict(unet, config, sample, timestep, labels)
            if step == disturbed:
                prediction = prediction + error
            sample = scheduler.step(prediction, timestep, sample).prev_sample
        return sample

    plain = image(None, 0)
    expected = [
        [float((image(step, band) - plain).square().mean().sqrt()) / 0.05 for band in range(2)]
        for step in range(6)
    ]
    np.testing.assert_allclose(measured(unet, config).numpy(), expected, rtol=0.15)


@pytest.mark.parametrize("scheduler", [DDIM, SOLVER, EULER], ids=lambda s: s["_class_name"])
def test_noise_of_the_sampler_is_not_taken_for_a_change(scheduler):
    """An ancestral sampler's noise is the same in every walk; a solver that remembers predictions
    has a memory of its own in each."""
    progress = fixtures.SilentProgress()
    steps = measured(Constant(), CONFIG, scheduler, progress)
    assert steps.shape == (6, 2)
    assert progress.tasks == ["sensitivity"]
    torch.testing.assert_close(
        steps, measured(Constant(), CONFIG, scheduler, seed=4), rtol=1e-3, atol=1e-5
    )


def test_guidance_is_part_of_the_walk():
    """With a learned variance, which is left alone."""
    torch.manual_seed(0)
    dit = tiny_dit()
    config = {**dit.config, "_class_name": "DiTTransformer2DModel"}
    plain, guided = measured(dit, config), measured(dit, config, guidance=30.0)
    assert not torch.allclose(plain, guided, rtol=0.01)
    unet = fixtures.tiny_unet()
    with pytest.raises(RecipeError, match="cannot be guided"):
        measured(unet, {**unet.config, "_class_name": "UNet2DModel"}, guidance=4.0)


@pytest.mark.parametrize("num_steps", [1, 6, 50])
def test_the_price_is_told_beforehand(num_steps):
    model, seen = Constant(), []
    student = Student(Erring(Constant()), {}, BatchEntries())
    for asked in (model, student.module):
        asked.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output[0])))
    measured(model, CONFIG, student=student, num_steps=num_steps)
    assert sum(seen) == walked_predictions(num_steps)


def test_a_power_of_0_counts_all_errors_alike():
    sensitivity = torch.tensor([[0.5, 0.4], [0.01, 0.1]])
    assert torch.equal(error_weights(sensitivity, 0.0), torch.ones(2, 2))


def test_weights_are_powers_and_one_on_average():
    weights = error_weights(torch.tensor([[4.0, 1.0], [2.0, 1.0]]), 1.0)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.5], [1.0, 0.5]]))


def test_no_step_is_forgotten():
    """Not even one that changes nothing at all, nor where no step does."""
    weights = error_weights(torch.tensor([[1.0, 0.0], [1e-9, 1.0]]), 2.0)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights.min()) > 0.04
    nothing = module._interpolated([0, 2], torch.zeros(2, 2), 3)
    assert torch.equal(error_weights(nothing, 1.5), torch.ones(3, 2))


def test_what_leaves_the_finite_numbers_is_refused():
    class Broken(Constant):
        def forward(self, sample, timestep, class_labels=None, return_dict=False):
            return (sample * float("inf"),)

    with pytest.raises(RecipeError, match="images are not finite"):
        measured(Broken(), CONFIG)


def test_a_model_that_predicts_nothing_has_sensitivities_too():
    class Nothing(Constant):
        def forward(self, sample, timestep, class_labels=None, return_dict=False):
            return (torch.zeros_like(sample),)

    for band in measured(Nothing(), CONFIG, num_steps=5).T:
        torch.testing.assert_close(band, ddim_coefficients(5), rtol=0.01, atol=1e-5)


class MeanIsSignal(Constant):
    """Takes all that is no shade of a whole image for noise."""

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        return (sample - sample.mean(dim=(2, 3), keepdim=True),)


def test_coarse_and_fine_errors_are_told_apart():
    """A shade stays in the image, whereas noise is noise and is removed."""
    coarse, fine = measured(MeanIsSignal(), CONFIG, num_steps=5).T
    assert float(coarse[0]) > 3 * float(fine[0])


def test_errors_are_of_the_students_form():
    model = MeanIsSignal()
    student = student_of(model, torch.ones_like)
    coarse, fine = measured(model, CONFIG, student=student, num_steps=5).T
    torch.testing.assert_close(coarse, ddim_coefficients(5), rtol=1e-3, atol=1e-5)
    assert float(fine.max()) < 0.01 * float(coarse.max()), "there are none but roundings"


def test_how_far_the_student_is_off_does_not_count():
    model, noise = MeanIsSignal(), torch.randn(1, 2, 8, 8)
    little, much = (
        measured(model, CONFIG, student=student_of(model, lambda p, by=by: by * noise))
        for by in (1e-3, 10.0)
    )
    torch.testing.assert_close(little, much, rtol=1e-2, atol=1e-4)


def test_the_student_is_asked_with_the_tables_of_the_step():
    model, seen = Constant(), []
    student = student_of(model)
    student.module.register_forward_hook(
        lambda _module, _inputs, _output: seen.append(student.entries.value.tolist())
    )
    measured(model, CONFIG, student=student)
    assert [set(entries) for entries in seen] == [{step} for step in range(6)]


def test_a_student_without_errors_weighs_all_errors_alike():
    model = Constant()
    steps = measured(model, CONFIG, student=student_of(model, torch.zeros_like))
    assert torch.equal(error_weights(steps, 1.0), torch.ones(6, 2))


def test_a_student_that_leaves_the_finite_numbers_is_refused():
    model = Constant()
    broken = student_of(model, lambda prediction: prediction / 0)
    with pytest.raises(RecipeError, match="predictions are not finite before training"):
        measured(model, CONFIG, student=broken)


def test_large_batches_are_cut_into_calls(monkeypatch):
    """With what is guided, both halves of an image in one call."""
    torch.manual_seed(0)
    dit = tiny_dit()
    config = {**dit.config, "_class_name": "DiTTransformer2DModel"}
    whole = measured(dit, config, guidance=4.0)
    monkeypatch.setattr(module, "calls_per_step", lambda _config, _images: 3)
    torch.testing.assert_close(measured(dit, config, guidance=4.0), whole, rtol=0.02, atol=0)
