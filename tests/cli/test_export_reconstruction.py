"""Exports that learn before they train: a stopped run goes on behind what it has finished."""

import signal
from dataclasses import replace

import fixtures
import numpy as np
import pytest

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import Interrupted
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.methods import recipe_of
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import RoundingChoices, ScalingChoices
from mpq_export.training.choices import TrainingChoices
from mpq_export.training_folder import ResumeError

WEIGHTS = "weights.safetensors"
RECIPE = recipe_of("rtn").model_copy(
    update={
        "calibration_images": 2,
        "scaling": ScalingChoices(iterations=3, samples=12, batch=4),
        "rounding": RoundingChoices(iterations=3, samples=6, batch=2, rate=0.1),
    }
)
TRAINED = RECIPE.model_copy(
    update={"training": TrainingChoices(updates=2, groups=2, images_per_group=1)}
)


class StopsBehind(fixtures.SilentProgress):
    """Sends Ctrl-C to its own process behind so many blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.left = blocks

    def note(self, text):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def export(pipeline_folder):
    def run(out, progress=None, recipe=RECIPE, **changes):
        request = ExportRequest(BitSpec(3, 4), recipe, (), fixtures.NUM_STEPS, 0, out)
        progress = progress or fixtures.SilentProgress()
        return export_checkpoint(
            load_checkpoint(pipeline_folder), replace(request, **changes), progress
        )

    return run


@pytest.mark.parametrize("recipe", [RECIPE, TRAINED], ids=["alone", "with training"])
def test_a_stopped_run_ends_with_the_same_bytes(export, tmp_path, recipe):
    whole, out = tmp_path / "whole", tmp_path / "b"
    export(whole, recipe=recipe)
    with pytest.raises(Interrupted, match="--resume"):
        export(out, StopsBehind(4), recipe)
    folder = tmp_path / "b.training"
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "conditions.safetensors", "parts",
    }  # fmt: skip
    with pytest.raises(ResumeError, match="unfinished training run"):
        export(out, recipe=recipe)
    with pytest.raises(ResumeError, match="differs in seed"):
        export(out, recipe=recipe, resume=True, seed=1)
    files = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    assert len(files) >= 4
    progress = fixtures.SilentProgress()
    bundle = export(out, progress, recipe, resume=True)
    assert "learn rounding" in progress.tasks
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"b", "whole"}
    assert (out / "training").exists() == bool(recipe.training.updates)
    assert bundle.quantization.recipe["rounding"]["iterations"] == 3


def test_learned_codes_are_deployed(export, tmp_path):
    learned = export(tmp_path / "a", fixtures.SilentProgress())
    nearest = export(tmp_path / "b", recipe=RECIPE.model_copy(update={"rounding": None}))
    changed = [
        name
        for name, layer in read_bundle(learned.path).layers.items()
        if not np.array_equal(layer.weight.planes, nearest.layers[name].weight.planes)
    ]
    assert len(changed) > 10
