"""A cell of a tiny model of the digits family, which their judge can look at."""

import fixtures
import pytest
from mpq_export.pipelines.ablation import resampling
from mpq_export.pipelines.ablation.grid import Cell, Measure
from mpq_export.pipelines.ablation.store import Store

from mpq_export.methods import recipe_of


@pytest.fixture(scope="session")
def digits_pipeline(tmp_path_factory):
    """A pipeline folder; do not change it."""
    model = fixtures.tiny_unet(channels=1, classes=10)
    model.register_to_config(sample_size=16)
    folder = tmp_path_factory.mktemp("tiny-digits") / "checkpoint"
    return fixtures.save_pipeline(folder, model, "DigitsPipeline")


@pytest.fixture
def cell(digits_pipeline, monkeypatch):
    """Three updates of MPQ-DMv2, 70 images in three steps."""
    monkeypatch.setattr(resampling, "RESAMPLES", 2)
    recipe = recipe_of("mpq-dmv2")
    choices = {"updates": 3, "groups": 2, "images_per_group": 2}
    training = recipe.training.model_copy(update=choices)
    recipe = recipe.model_copy(update={"training": training, "calibration_images": 4})
    return Cell("digits", digits_pipeline, "mpq-dmv2", "w3a4", recipe, 0, Measure.IMAGES, 70, 3)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")
