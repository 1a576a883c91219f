"""Exports that learn before they train: a stopped run goes on behind what it has finished."""

import signal
from dataclasses import replace

import fixtures
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.checkpoints.weights import record_weights
from mpq_export.errors import Interrupted, UserError
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.methods import recipe_of
from mpq_export.precision import BitSpec
from mpq_export.reconstruction.choices import PowerOfTwoChoices, RoundingChoices, ScalingChoices
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


class StopsAfter(fixtures.SilentProgress):
    """Sends Ctrl-C to its own process behind so many blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.left = blocks

    def note(self, text):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


class StopsBehind(fixtures.SilentProgress):
    """Sends SIGTERM to its own process behind the last part of a task."""

    def __init__(self, task):
        super().__init__()
        self.wanted, self.left = task, 0

    def start(self, task, total):
        super().start(task, total)
        self.left = total

    def advance(self, parts=1):
        self.left -= parts
        if self.tasks[-1] == self.wanted and self.left <= 0:
            self.wanted = ""
            signal.raise_signal(signal.SIGTERM)


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
        export(out, StopsAfter(4), recipe)
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


STAGES = {
    "learn scales": "scales were learned",
    "count votes": "votes were counted",
    "learn temporal rounding": "the temporal block's rounding was learned",
    "learn rounding": "rounding was learned",
}


def test_a_run_can_be_stopped_at_the_end_of_every_stage(export, tmp_path):
    """One after another, each going on where the one before was stopped; nothing is lost."""
    changes = {
        "split_concatenations": True,
        "power_of_two": PowerOfTwoChoices(agreement=0.4),
        "temporal_rounding": RECIPE.rounding,
    }
    recipe, out = RECIPE.model_copy(update=changes), tmp_path / "b"
    kept: set[str] = set()
    for task, words in STAGES.items():
        with pytest.raises(Interrupted, match=f"Stopped while {words}.*--resume"):
            export(out, StopsBehind(task), recipe, resume=bool(kept))
        after = {path.name for path in (tmp_path / "b.training" / "parts").iterdir()}
        assert after > kept
        kept = after
    again = export(out, recipe=recipe, resume=True)
    assert any(layer.input_shift.any() for layer in again.layers.values())
    whole = export(tmp_path / "whole", recipe=recipe)
    assert (again.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("task", ["calibrate", "quantize"])
def test_ctrl_c_where_nothing_is_learned_says_how_to_go_on_too(export, tmp_path, task):
    class Stops(fixtures.SilentProgress):
        def advance(self, parts=1):
            if self.tasks[-1] == task:
                signal.raise_signal(signal.SIGINT)

    recipe = RECIPE.model_copy(update={"scaling": None})
    with pytest.raises(Interrupted, match=r"The run was stopped\. Go on with --resume"):
        export(tmp_path / "b", Stops(), recipe)
    assert (tmp_path / "b.training" / "run.json").is_file()
    assert not (tmp_path / "b").exists()


def test_numbers_that_no_stage_writes_are_refused(export, tmp_path):
    """In the files of a run that goes on, of the types and shapes that are right: a factor of next
    to nothing, a shift beyond eight bits, a code beyond its row's levels."""
    recipe = RECIPE.model_copy(update={"power_of_two": PowerOfTwoChoices()})
    out = tmp_path / "b"
    with pytest.raises(Interrupted):
        export(out, StopsAfter(2), recipe)
    names = {}
    for file in (tmp_path / "b.training" / "parts").iterdir():
        with safe_open(file, framework="pt") as stream:
            names[stream.metadata()["name"].partition(" ")[0]] = file, stream.metadata()
    assert names.keys() == {"scaling", "votes", "rounding"}
    for stage, number in (("rounding", 200), ("votes", 5), ("scaling", 1e-35)):
        file, metadata = names[stage]
        whole, tensors = file.read_bytes(), load_file(file)
        key = "shift" if stage == "votes" else next(iter(tensors))
        tensors[key].view(-1)[0] = number
        save_file(tensors, file, metadata)
        with pytest.raises(UserError, match=f"{key}.*out of range.*Delete it") as caught:
            export(out, recipe=recipe, resume=True)
        assert caught.value.where == str(file)
        file.write_bytes(whole)


def test_learned_codes_are_deployed(export, pipeline_folder, tmp_path, monkeypatch):
    record = record_weights(load_checkpoint(pipeline_folder).model)
    hashed = []
    for room in ("trained_quantization", "export"):
        monkeypatch.setattr(
            f"mpq_export.{room}.record_weights",
            lambda model: hashed.append(model) or record_weights(model),
        )
    learned = export(tmp_path / "a", fixtures.SilentProgress())
    assert len(hashed) == 1
    assert learned.quantization.source_sha256 == record.sha256
    nearest = export(tmp_path / "b", recipe=RECIPE.model_copy(update={"rounding": None}))
    changed = [
        name
        for name, layer in read_bundle(learned.path).layers.items()
        if not np.array_equal(layer.weight.planes, nearest.layers[name].weight.planes)
    ]
    assert len(changed) > 10
