"""Images without torch: those of the diffusers pipeline, from the same seed."""

from collections.abc import Mapping
from dataclasses import replace

import fixtures
import numpy as np
import pytest
from mpq_export.pipelines.registry import FAMILIES, DrawRequest

from mpq_export import sampling
from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError, RuntimeUnavailable
from mpq_export.numpy_sampling import BATCH, draw, labels_in_turn
from mpq_export.runtimes.names import Runtime
from mpq_export.samplers.names import SchedulerName, with_scheduler
from mpq_export.sampling import SamplingLoop, draw_images, loop_of

MODEL = {
    "_class_name": "UNet2DModel", "sample_size": [4, 8], "in_channels": 1, "num_class_embeds": 3,
}  # fmt: skip
DDIM = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}


class Recorder:
    """A denoiser of images that are ``label / 2`` everywhere; keeps what it was given."""

    array_type = np.ndarray

    def __init__(self, model_config: Mapping, extra_channels: int = 0) -> None:
        self.model_config, self.extra, self.calls = model_config, extra_channels, []

    def __call__(self, sample, timestep, **conditions):
        self.calls.append((sample, timestep, conditions))
        level = conditions["class_labels"].reshape(-1, 1, 1, 1) / np.float32(2)
        wanted = np.broadcast_to(level, sample.shape).astype(np.float32)
        return np.concatenate([wanted] + [np.full_like(wanted, np.nan)] * self.extra, axis=1)


def recorded(num_images, extra_channels=0, steps=4, config=DDIM):
    denoiser = Recorder(MODEL, extra_channels)
    labels = labels_in_turn(MODEL, range(num_images))
    scheduler = config | {"prediction_type": "sample"}
    done = []
    images = draw(denoiser, scheduler, labels, num_images, steps, 0, done.append)
    return denoiser, images, done


def test_images_are_what_the_model_denoises_to():
    denoiser, images, done = recorded(7)
    assert images.shape == (7, 1, 4, 8)
    assert images.dtype == np.float32
    expected = np.array([0, 1, 2, 0, 1, 2, 0]) / 4 + 0.5
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=1e-6)
    assert [timestep for _, timestep, _ in denoiser.calls] == [999, 749, 499, 249]
    assert done == [7]


def test_many_images_are_drawn_in_batches_with_their_own_labels_and_noise():
    denoiser, images, done = recorded(2 * BATCH + 1)
    assert done == [BATCH, BATCH, 1]
    assert len(images) == 2 * BATCH + 1
    first, second, last = denoiser.calls[::4]
    assert last[2]["class_labels"].tolist() == [2 * BATCH % 3]
    assert not np.array_equal(first[0], second[0])


def test_channels_of_a_learned_variance_are_not_used():
    _, images, _ = recorded(3, extra_channels=1)
    assert images.shape == (3, 1, 4, 8)
    assert np.isfinite(images).all()


def test_unconditional_models_have_no_labels():
    assert labels_in_turn({**MODEL, "num_class_embeds": None}, range(3)) == {}


def test_models_that_take_text_are_refused():
    config = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 32, "sample_size": 8}
    with pytest.raises(BundleError, match="encoder_hidden_states"):
        labels_in_turn(config, range(3))


def test_images_that_are_not_finite_are_refused():
    """No signal is left at the first timestep, and noise is predicted: 0 / 0."""

    def zero_noise(sample, timestep, **_):
        return sample * 1

    zero_noise.model_config = MODEL
    config = DDIM | {"rescale_betas_zero_snr": True}
    with pytest.raises(BundleError, match="not finite"):
        draw(zero_noise, config, {}, 2, 4, 0)


@pytest.mark.parametrize("scheduler", [None, *SchedulerName])
def test_the_same_images_as_with_diffusers(digits_folder, monkeypatch, scheduler):
    """Velocities, since untrained predictions of noise draw images that are all clipped."""
    bundle = read_bundle(digits_folder)
    config = with_scheduler(bundle.scheduler_config, scheduler)
    bundle = replace(bundle, scheduler_config=config | {"prediction_type": "v_prediction"})
    images = {}
    for loop in SamplingLoop:
        monkeypatch.setattr(sampling, "loop_of", lambda _bundle, loop=loop: loop)
        images[loop] = draw_images(
            bundle, Runtime.ORT, DrawRequest(60, 3, 5), fixtures.SilentProgress()
        )
        assert images[loop].shape == (60, 1, 8, 8)
    ours, theirs = images[SamplingLoop.NUMPY], images[SamplingLoop.DIFFUSERS]
    assert theirs.std() > 0.02
    assert np.mean((theirs > 0) & (theirs < 1)) > 0.5
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()


def test_diffusers_is_used_where_it_is_installed(digits_folder):
    assert loop_of(read_bundle(digits_folder)) is SamplingLoop.DIFFUSERS


def test_a_family_with_further_models_says_what_to_install(digits_folder, monkeypatch):
    latent = replace(FAMILIES["digits"], pixel_space=False)
    monkeypatch.setitem(FAMILIES, "digits", latent)
    monkeypatch.setattr(sampling, "loop_of", lambda _bundle: SamplingLoop.NUMPY)
    bundle = read_bundle(digits_folder)
    with pytest.raises(RuntimeUnavailable, match="text encoder or a VAE"):
        draw_images(bundle, Runtime.ORT, DrawRequest(1, 1, 0), fixtures.SilentProgress())
