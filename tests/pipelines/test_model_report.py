"""Figures of a model that ships."""

import fixtures
import numpy as np
import torch
from mpq_export.pipelines import model_report
from mpq_export.pipelines.checkpoint_folder import save_checkpoint
from mpq_export.pipelines.denoising import cosine_scheduler
from mpq_export.pipelines.digits.pipeline import DigitsPipeline

from mpq_export.checkpoints import load_checkpoint


def test_the_tails_of_weights_are_told_apart(tmp_path):
    model = fixtures.tiny_unet(channels=1, classes=10)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            heavy = torch.distributions.Laplace(0.0, 1.0).sample(module.weight.shape)
            uniform = torch.rand(module.weight.shape)
            module.weight.data = uniform if "resnets" in name else heavy
    save_checkpoint(DigitsPipeline(model, cosine_scheduler("epsilon")), tmp_path)
    channels = model_report.weight_kurtosis(load_checkpoint(tmp_path))
    summary = model_report.kurtosis_summary(channels)
    assert summary["channels"] == len(channels) == sum(summary["histogram"].values())
    assert summary["quantiles"]["100%"] == channels.max()
    quantized = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        and not name.startswith(("conv_in", "conv_out", "time_embedding"))
    ]
    assert len(channels) == sum(len(module.weight) for _, module in quantized)
    heavy = np.array([n.endswith("samplers.0.conv") for n, m in quantized for _ in m.weight])
    assert heavy.any()
    assert channels[heavy].mean() > 4.5
    assert channels[~heavy].mean() < 2.5


def test_drawn_images_stand_beside_the_data():
    drawn = torch.arange(200.0).view(-1, 1, 1, 1)
    shown = model_report.side_by_side(drawn, -drawn).flatten()
    assert len(shown) == 160
    assert shown[:20].tolist() == [*range(10), *(-i for i in range(10))]
    assert shown[20:22].tolist() == [10, 11]


def test_the_report_holds_what_was_measured(monkeypatch):
    monkeypatch.setattr(model_report, "STEPS", (1, 3))
    folder = model_report.shipped_checkpoint("digits")
    report, images = model_report.model_report("digits", folder, 100, 1)
    assert report["parameters"] == 1_308_617
    assert 4 * report["parameters"] < report["checkpoint_bytes"] < 6e6
    assert list(report["quality"]) == [1, 3]
    few, more = report["quality"].values()
    assert few["frechet_data"] > more["frechet_data"] > 0
    assert 0 < more["accuracy"] <= 1
    assert images.shape == (100, 1, 16, 16)
