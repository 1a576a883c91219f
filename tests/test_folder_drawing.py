"""Images into a folder: by one process or several, stopped and killed, with statistics of all."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import fixtures
import numpy as np
import pytest
from mpq_export.pipelines.judge import ClassifierJudge
from mpq_export.pipelines.registry import DrawRequest

from mpq_export import folder_drawing
from mpq_export.bundle import read_bundle
from mpq_export.drawing import PIXELS_AT_ONCE, open_drawer
from mpq_export.errors import Interrupted, UserError
from mpq_export.evaluation.frechet import FeatureStatistics
from mpq_export.evaluation.gate import Limits, require_answerable
from mpq_export.evaluation.reference import FULL_PRECISION, ReferenceFileError, read_reference
from mpq_export.folder_drawing import STATISTICS, fill_folder
from mpq_export.image_folder import IMAGES, as_bytes
from mpq_export.processes import WHOLE, Share
from mpq_export.runtimes.names import Runtime

REQUEST = DrawRequest(40, 2, 5)


class MeanClassifier:
    """Features of an image are its mean and deviation; its class is always 3."""

    num_classes = 10

    def state_dict(self):
        return {}

    def features(self, images):
        pixels = images.flatten(1)
        import torch

        return torch.stack([pixels.mean(1), pixels.std(1)], 1)

    def __call__(self, images):
        import torch

        return torch.eye(10)[torch.full((len(images),), 3)]


@pytest.fixture
def judged(monkeypatch):
    import torch

    data = torch.rand((30, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    judge = ClassifierJudge(MeanClassifier(), data)
    monkeypatch.setattr(folder_drawing, "judge_of", lambda _bundle: judge)
    return judge


@pytest.fixture(scope="module")
def bundle(digits_folder):
    return read_bundle(digits_folder)


@pytest.fixture
def fill(bundle, tmp_path):
    def run(name="out", share=WHOLE, ckpt=None, reference=None, request=REQUEST, bundle=bundle):
        return fill_folder(
            bundle, Runtime.ORT, ckpt, request, tmp_path / name, share, reference,
            fixtures.SilentProgress(),
        )  # fmt: skip

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / IMAGES).iterdir()}


def test_processes_fill_a_folder_as_one_does(fill, judged, tmp_path, bundle):
    done = fill("one", reference=tmp_path / "one.safetensors")
    assert done.drawn == 40
    shares = [Share(2, 3), Share(0, 3), Share(1, 3)]
    reference = tmp_path / "three.safetensors"
    runs = [fill("three", share, reference=reference) for share in shares]
    assert sorted(run.drawn for run in runs) == [8, 16, 16]
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert len(contents(tmp_path / "one")) == 40
    assert [run.reference is None for run in runs] == [True, True, False]
    one, three = read_reference(tmp_path / "one.safetensors"), read_reference(reference)
    assert one.drawn == three.drawn
    np.testing.assert_allclose(one.images.scatter, three.images.scatter, rtol=1e-12)
    np.testing.assert_array_equal(one.shown, three.shown)


def test_what_is_on_disk_is_what_is_drawn_and_what_the_reference_says(
    fill, judged, tmp_path, bundle
):
    import torch

    reference = fill(reference=tmp_path / "r").reference
    images = as_bytes(open_drawer(bundle, Runtime.ORT, REQUEST).draw(range(40)))
    np.testing.assert_array_equal(reference.shown, images)
    pixels = torch.from_numpy(images / np.float32(255))
    expected = FeatureStatistics.of(judged.features(pixels).double().numpy())
    np.testing.assert_allclose(reference.images.mean, expected.mean)
    np.testing.assert_allclose(reference.images.covariance, expected.covariance)
    assert reference.images.count == 40
    assert reference.data.count == 30
    assert reference.accuracy == pytest.approx(4 / 40)
    assert reference.extractor == judged.extractor


def test_a_run_goes_on_where_images_are_missing(fill, tmp_path):
    fill()
    before = contents(tmp_path / "out")
    for number in (0, 17, 39):
        (tmp_path / "out" / IMAGES / f"{number:06}.png").unlink()
    assert fill().drawn == 40
    assert contents(tmp_path / "out") == before
    assert fill().drawn == 0
    assert fill(request=replace(REQUEST, num_images=45)).drawn == 45 - 32
    assert {name: data for name, data in contents(tmp_path / "out").items() if name in before} == (
        before
    )


def test_other_requests_do_not_go_on(fill, bundle):
    fill()
    for request in (replace(REQUEST, seed=6), replace(REQUEST, num_steps=3)):
        with pytest.raises(UserError, match="another request"):
            fill(request=request)
    config = bundle.scheduler_config | {"clip_sample": False}
    with pytest.raises(UserError, match="differs in scheduler"):
        fill(bundle=replace(bundle, scheduler_config=config))


def test_full_precision_draws_in_the_bundles_place(fill, judged, tmp_path, digits_folder):
    fill("quantised")
    run = fill("full", ckpt=str(digits_folder.parent / "pipeline"), reference=tmp_path / "r")
    assert run.selection.note == FULL_PRECISION
    assert read_reference(tmp_path / "r").drawn.model == FULL_PRECISION
    assert contents(tmp_path / "full") != contents(tmp_path / "quantised")
    with pytest.raises(UserError, match="another request"):
        fill("full")


def test_the_gate_takes_what_the_checkpoint_drew_and_not_what_the_bundle_did(
    fill, judged, tmp_path, bundle, digits_folder
):
    """Compared with its own images a bundle would lose nothing."""
    fill("self", reference=tmp_path / "of-itself")
    fill("full", ckpt=str(digits_folder.parent / "pipeline"), reference=tmp_path / "of-full")
    limits = Limits(psnr=60.0)
    require_answerable(bundle, read_reference(tmp_path / "of-full"), limits)
    with pytest.raises(ReferenceFileError, match="not of full precision"):
        require_answerable(bundle, read_reference(tmp_path / "of-itself"), limits)


def test_a_reference_of_one_image_is_refused(fill, tmp_path):
    with pytest.raises(UserError, match="no statistics"):
        fill(request=replace(REQUEST, num_images=1), reference=tmp_path / "r")
    assert not (tmp_path / "out").exists()


def test_without_a_judge_the_reference_has_the_images_alone(fill, tmp_path):
    """The family's judge is of images of 16x16; these have 8x8."""
    run = fill(reference=tmp_path / "r")
    reference = run.reference
    assert reference.extractor is reference.images is reference.data is None
    assert run.unjudged == "nothing extracts features of such images here"
    assert len(read_reference(tmp_path / "r").shown) == 40


def test_a_judge_that_is_broken_is_not_taken_for_one_that_lacks_a_package(
    fill, tmp_path, monkeypatch
):
    """And either is found out before anything is drawn."""
    error = ModuleNotFoundError("No module", name="mpq_export.gone")
    monkeypatch.setattr(folder_drawing, "judge_of", lambda _bundle: (_ for _ in ()).throw(error))
    with pytest.raises(ModuleNotFoundError):
        fill(reference=tmp_path / "r")
    assert not (tmp_path / "out").exists()
    error.name = "sklearn.datasets"
    assert "'sklearn', which is not installed" in fill(reference=tmp_path / "r").unjudged
    assert read_reference(tmp_path / "r").images is None


def test_where_no_reference_can_be_written_is_found_out_before_drawing(fill, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r"):
        with pytest.raises(UserError, match="cannot be written"):
            fill(reference=path)
    assert not (tmp_path / "out").exists()


def test_a_process_without_work_is_content(fill, judged, tmp_path):
    few = replace(REQUEST, num_images=PIXELS_AT_ONCE)
    reference = tmp_path / "r"
    assert fill(share=Share(1, 2), request=few, reference=reference).drawn == 0
    assert fill(share=Share(0, 2), request=few, reference=reference).reference is not None
    assert read_reference(reference).images.count == PIXELS_AT_ONCE
    assert len(list((tmp_path / "out" / STATISTICS).iterdir())) == 2


def test_ctrl_c_ends_after_the_batch(fill, bundle, tmp_path, monkeypatch):
    class Interrupting:
        tasks = ()

        def start(self, task, total): ...

        def advance(self, parts=1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="same command goes on"):
        fill_folder(
            bundle, Runtime.ORT, None, REQUEST, tmp_path / "out", WHOLE, None, Interrupting()
        )
    assert len(contents(tmp_path / "out")) == PIXELS_AT_ONCE
    assert fill().drawn == 40 - PIXELS_AT_ONCE


def test_a_killed_command_goes_on(digits_folder, fill, tmp_path):
    """SIGKILL in the midst of it: what is there is whole, and the rest is drawn by the next."""
    folder = tmp_path / "killed"
    words = [
        sys.executable, "-m", "mpq_export.cli.sample", str(digits_folder), "--steps", "2", "--seed",
        "5", "--images", str(folder), "--num-images", "4000",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(folder.glob(f"{IMAGES}/*.png"))) < 40:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    there = len(contents(folder))
    assert there < 4000
    fill("whole")
    assert fill("killed").drawn == 0
    whole, killed = contents(tmp_path / "whole"), contents(folder)
    assert {name: killed[name] for name in whole} == whole
    assert not list(folder.glob(f".{IMAGES}.*"))
