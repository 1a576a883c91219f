"""What noise on a model's predictions does to its images."""

import pytest
import torch
from mpq_export.pipelines.disturbed_report import (
    Disturbance,
    Steps,
    disturbed,
    disturbed_report,
    markdown,
)
from mpq_export.pipelines.model_report import shipped_checkpoint

from mpq_export.checkpoints import load_checkpoint
from mpq_export.prediction import predict


@pytest.mark.parametrize(
    ("steps", "at_first", "later"),
    [(Steps.ALL, True, True), (Steps.FIRST, True, False), (Steps.OTHERS, False, True)],
)
def test_predictions_are_off_by_what_was_asked(steps, at_first, later):
    checkpoint = load_checkpoint(shipped_checkpoint("digits"))
    sample = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = {"class_labels": torch.arange(8)}

    def predicted(timestep):
        with torch.no_grad():
            return predict(
                checkpoint.model,
                checkpoint.model_config,
                sample,
                torch.tensor([timestep]),
                labels,
            )

    for timestep, moved in ((999, at_first), (500, later)):
        plain = predicted(timestep)
        with disturbed(checkpoint.model, Disturbance(0.1, steps), 999.0):
            off = predicted(timestep) - plain
        asked = 0.1 if moved else 0.0
        assert float(off.norm() / plain.norm()) == pytest.approx(asked, abs=0.01)
        torch.testing.assert_close(predicted(timestep), plain, rtol=0, atol=0)


def test_more_noise_moves_images_farther():
    disturbances = [Disturbance(share, Steps.ALL) for share in (0.02, 0.3)]
    folder = shipped_checkpoint("digits")
    report = disturbed_report("digits", folder, 100, 1, disturbances)
    little, much = report["rows"]
    assert 0 < little["frechet_full_precision"] < much["frechet_full_precision"]
    assert little["psnr_full_precision"] > much["psnr_full_precision"] + 10
    assert markdown(report).count("\n| 0") == 2
