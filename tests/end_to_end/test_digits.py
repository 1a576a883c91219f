"""The main job on the shipped model: from checkpoint to digits that are the digits asked for."""

import json

import fixtures
import numpy as np
import pytest
import torch
from mpq_export.pipelines.digits.demo import CHECKPOINT, main
from mpq_export.pipelines.digits.family import build_pipeline, draw
from mpq_export.pipelines.digits.quality import DigitsJudge
from mpq_export.pipelines.registry import DrawRequest
from PIL import Image

from mpq_export import numpy_sampling
from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.methods import DEFAULT_METHOD
from mpq_export.numpy_sampling import labels_in_turn
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime
from mpq_export.samplers.names import SchedulerName, with_scheduler
from mpq_export.sampling import draw_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo with fewer images."""
    out = tmp_path_factory.mktemp("demo")
    main(out=out, num_images=100, steps=20, method=DEFAULT_METHOD, train_steps=12, seed=0)
    return out


def test_the_shipped_model_draws_what_is_asked():
    checkpoint = load_checkpoint(CHECKPOINT)
    assert checkpoint.family == "digits"
    assert sum(p.numel() for p in checkpoint.model.parameters()) <= 1.4e6
    assert sum(f.stat().st_size for f in CHECKPOINT.rglob("*") if f.is_file()) <= 6e6
    pipeline = build_pipeline(checkpoint.model, checkpoint.scheduler_config)
    images = draw(pipeline, DrawRequest(200, 20, 5))
    assert DigitsJudge().measure(images, None).accuracy >= 0.95


def test_the_demo_measures_and_draws(demo):
    rows = {row["model"]: row for row in json.loads((demo / "demo.json").read_text())["rows"]}
    assert list(rows) == ["fp32", "w8a8", "w4a8", "w3a4", "w3a4 trained"]
    assert rows["w8a8"]["accuracy"] >= 0.95
    assert rows["w4a8"]["accuracy"] >= 0.9
    assert rows["w3a4"]["accuracy"] >= 0.6
    # A dozen updates help already.
    assert rows["w3a4 trained"]["psnr_full_precision"] > rows["w3a4"]["psnr_full_precision"]
    psnr = [rows[bits]["psnr_full_precision"] for bits in ("w8a8", "w4a8", "w3a4")]
    assert psnr == sorted(psnr, reverse=True)
    size = [rows[bits]["packed_bytes"] for bits in ("fp32", "w8a8", "w4a8", "w3a4")]
    assert size == sorted(size, reverse=True)
    picture = Image.open(demo / "demo.png")
    assert picture.width > 900
    assert len(picture.getcolors(100_000)) > 100


@pytest.mark.parametrize("steps", [1, 7, 33])
def test_any_number_of_steps(demo, steps):
    images = draw_images(
        read_bundle(demo / "w4a8"),
        Runtime.ORT,
        DrawRequest(10, steps, 0),
        fixtures.SilentProgress(),
    )
    assert images.shape == (10, 1, 16, 16)
    assert np.isfinite(images).all()


def test_runtimes_draw_nearly_the_same_images(demo):
    bundle = read_bundle(demo / "w8a8")
    ort, reference = (
        draw_images(bundle, runtime, DrawRequest(20, 20, 0), fixtures.SilentProgress())
        for runtime in (Runtime.ORT, Runtime.TORCH)
    )
    assert np.sqrt(np.mean((ort - reference) ** 2)) < 0.05


@pytest.mark.parametrize("scheduler", SchedulerName)
def test_every_scheduler_draws_what_is_asked_without_torch(demo, scheduler):
    """In 10 steps; Euler, which cannot clip, does not start at the cosine's last timestep."""
    bundle = read_bundle(demo / "w8a8")
    denoiser = open_denoiser(bundle, Runtime.ORT)
    config = with_scheduler(bundle.scheduler_config, scheduler)
    if "euler" in scheduler:
        config["timestep_spacing"] = "leading"
    labels = labels_in_turn(bundle.model_config, range(50))
    images = torch.from_numpy(numpy_sampling.draw(denoiser, config, labels, 50, 10, 1))
    assert DigitsJudge().measure(images, None).accuracy >= 0.9
