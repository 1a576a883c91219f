"""Images by their numbers: the same whoever draws them, in any order, with and without torch."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mpq_export.pipelines.registry import DrawRequest

from mpq_export import drawing
from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.drawing import PIXELS_AT_ONCE, drawer_around, image_seed, open_drawer
from mpq_export.runtimes.full_precision import FullPrecisionDenoiser
from mpq_export.runtimes.names import Runtime
from mpq_export.samplers.names import SchedulerName, with_scheduler
from mpq_export.samplers.torch_noise import NoiseOfImages
from mpq_export.sampling import SamplingLoop

REQUEST = DrawRequest(40, 3, 5)


@pytest.fixture(scope="module")
def bundle(digits_folder):
    """Velocities, since untrained predictions of noise draw images that are all clipped."""
    bundle = read_bundle(digits_folder)
    config = bundle.scheduler_config | {"prediction_type": "v_prediction"}
    return replace(bundle, scheduler_config=config)


@pytest.fixture(scope="module")
def drawer(bundle):
    return open_drawer(bundle, Runtime.ORT, REQUEST)


def test_an_image_depends_on_its_number_alone(drawer):
    whole = drawer.draw(range(40))
    assert whole.shape == (40, 1, 8, 8)
    assert whole.dtype == np.float32
    for part in (range(3), range(15, 18), range(39, 40), range(7, 40)):
        np.testing.assert_array_equal(drawer.draw(part), whole[part.start : part.stop])
    assert len(np.unique(whole.reshape(40, -1), axis=0)) == 40


def test_an_image_beyond_the_request_is_drawn_alike(drawer, bundle):
    more = open_drawer(bundle, Runtime.ORT, replace(REQUEST, num_images=1000))
    np.testing.assert_array_equal(more.draw(range(38, 40)), drawer.draw(range(38, 40)))


def test_other_seeds_are_other_images(drawer, bundle):
    other = open_drawer(bundle, Runtime.ORT, replace(REQUEST, seed=6))
    assert np.abs(other.draw(range(2)) - drawer.draw(range(2))).max() > 0.01


def test_progress_counts_what_was_asked_for(drawer):
    done = []
    drawer.draw(range(14, 35), done.append)
    assert done == [2, 16, 3]
    assert [len(part) for part in drawer.batches(range(14, 35))] == [PIXELS_AT_ONCE] * 3


@pytest.mark.parametrize("images", [range(0), range(5, 2), range(0, 10, 2)])
def test_images_come_in_a_row(drawer, images):
    with pytest.raises(ValueError, match="in a row"):
        drawer.draw(images)


def test_seeds_differ_within_a_run_and_between_runs():
    seeds = [image_seed(run, image) for run in range(3) for image in range(1000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert image_seed(0, 7) == 1_590_468_461


def test_noise_of_images_is_that_of_a_list_of_generators():
    from diffusers.utils.torch_utils import randn_tensor

    shape, seeds = (3, 2, 4, 5), [5, 2**32 - 1, 0]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = NoiseOfImages(seeds)
    for _ in range(2):
        expected = randn_tensor(shape, generator=generators).numpy()
        np.testing.assert_allclose(noise(shape), expected, atol=1e-5)


@pytest.mark.parametrize("scheduler", [SchedulerName.DDIM, SchedulerName.EULER_ANCESTRAL])
def test_the_same_images_with_diffusers_and_in_numpy(bundle, monkeypatch, scheduler):
    """Euler's ancestral steps draw noise of their own."""
    bundle = replace(bundle, scheduler_config=with_scheduler(bundle.scheduler_config, scheduler))
    images = {}
    for loop in SamplingLoop:
        monkeypatch.setattr(drawing, "loop_of", lambda _bundle, loop=loop: loop)
        opened = open_drawer(bundle, Runtime.ORT, REQUEST)
        assert opened.loop is loop
        images[loop] = opened.draw(range(20))
    ours, theirs = images[SamplingLoop.NUMPY], images[SamplingLoop.DIFFUSERS]
    assert theirs.std() > 0.02
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std()


def test_full_precision_is_drawn_from_the_same_noise(bundle, digits_folder):
    checkpoint = load_checkpoint(digits_folder.parent / "pipeline")
    original = FullPrecisionDenoiser(checkpoint.model, checkpoint.model_config)
    full = drawer_around(bundle, original, REQUEST).draw(range(8))
    quantised = open_drawer(bundle, Runtime.ORT, REQUEST).draw(range(16))
    paired = np.square(full - quantised[:8]).mean()
    unpaired = np.square(full - quantised[8:]).mean()
    assert paired < unpaired / 2


def test_the_readmes_lines_draw(digits_folder):
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "open_drawer" in b]
    block = block.replace('"out/b"', "folder").replace("=20", "=2")
    names = {"read_bundle": read_bundle, "Runtime": Runtime, "folder": digits_folder}
    exec(block, names)
    assert names["images"].shape == (16, 1, 8, 8)
