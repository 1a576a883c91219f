"""Exports that train: a whole run, and runs that were stopped or killed."""

import csv
import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch
import yaml
from commands import assert_user_error, run
from PIL import Image
from training_runs import RECIPE, UPDATES, WEIGHTS, wait_for_updates

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.trained_layer import TrainedLayer
from mpq_export.errors import Interrupted, RecipeError
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.files import require_replaceable
from mpq_export.methods import chosen_recipe
from mpq_export.training.launch import LaunchError
from mpq_export.training.state_file import TrainingStateError, read_state
from mpq_export.training_folder import ResumeError

SAVING_ALWAYS = """
from mpq_export.training import loop
loop._SECONDS_BETWEEN_SAVES = loop._PAUSE_PER_SAVE = 0.0
from mpq_export.cli.export import main
main()
"""


class StopsAt(fixtures.SilentProgress):
    """Sends Ctrl-C to its own process when so many updates are done."""

    def __init__(self, update):
        super().__init__()
        self.update, self.left = update, None

    def start(self, task, total):
        super().start(task, total)
        self.left = self.update if task == "train" else None

    def advance(self, parts=1):
        if self.left is not None and parts:
            self.left -= parts
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)


def started(words, code=SAVING_ALWAYS):
    """The command in a process of its own that saves after every update."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs, such as this very run of the tests, are deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_the_bundle_of_a_run(whole):
    bundle = read_bundle(whole)
    assert {path.name for path in whole.parent.iterdir()} == {"b"}
    require_replaceable(whole)
    assert bundle.quantization.recipe["training"]["updates"] == UPDATES
    assert np.any(bundle.output_bias)
    with (whole / "training" / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == list(range(1, UPDATES + 1))
    assert all(float(row["relation"]) > 0 for row in rows)
    with Image.open(whole / "training" / "training.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_training_changes_what_is_deployed(whole, export, request_for, tmp_path):
    request = request_for(tmp_path / "b")
    untrained = export(replace(request, recipe=request.recipe.trained_for(0)))
    trained = read_bundle(whole)
    assert trained.layers.keys() == untrained.layers.keys()
    assert not (tmp_path / "b" / "training").exists()
    changed = [
        name
        for name, layer in trained.layers.items()
        if not np.array_equal(layer.weight.planes, untrained.layers[name].weight.planes)
    ]
    assert len(changed) > len(trained.layers) / 2


def test_activations_that_are_computed_again_train_the_same(
    whole, export, request_for, tmp_path, monkeypatch
):
    """Gradient checkpointing: layers inside blocks run twice in an update."""
    calls, forward = Counter(), TrainedLayer.forward

    def counted(layer, x):
        calls[layer] += torch.is_grad_enabled()
        return forward(layer, x)

    monkeypatch.setattr(TrainedLayer, "forward", counted)
    request = request_for(tmp_path / "b")
    training = request.recipe.training.model_copy(update={"gradient_checkpointing": True})
    recipe = request.recipe.model_copy(update={"training": training})
    export(replace(request, recipe=recipe))
    assert (tmp_path / "b" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert set(calls.values()) == {UPDATES, 2 * UPDATES}


def test_a_stopped_run_ends_with_the_same_bytes(whole, export, request_for, tmp_path):
    out = tmp_path / "b"
    with pytest.raises(Interrupted, match=f"after 4 of {UPDATES} updates"):
        export(request_for(out), StopsAt(4))
    assert {path.name for path in tmp_path.iterdir()} == {"b.training"}
    with pytest.raises(ResumeError, match="unfinished training run"):
        export(request_for(out))
    with pytest.raises(ResumeError, match="differs in seed"):
        export(request_for(out, resume=True, seed=1))
    state = out.with_name("b.training") / "state.safetensors"
    good = state.read_bytes()
    state.write_bytes(good[:1000])
    with pytest.raises(TrainingStateError, match="cannot be read"):
        export(request_for(out, resume=True))
    state.write_bytes(good)
    progress = fixtures.SilentProgress()
    export(request_for(out, resume=True), progress)
    assert progress.tasks[0] == "train", "nothing is calibrated or measured again"
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    log = "training/training.csv"
    assert (out / log).read_bytes() == (whole / log).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_a_killed_run_ends_with_the_same_bytes(whole, export, request_for, command, tmp_path):
    out = tmp_path / "b"
    process = started(command(out))
    state = wait_for_updates(process, out)
    process.kill()
    process.communicate()
    assert 1 <= len(read_state(state).records) < UPDATES
    export(request_for(out, resume=True))
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"b"}, "half-written folders are gone"


@pytest.mark.slow
def test_ctrl_c_and_resume_as_a_user_meets_them(whole, command, pipeline_folder, tmp_path):
    out = tmp_path / "b"
    process = started(command(out))
    wait_for_updates(process, out)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Stopped after" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert not out.exists()
    assert_user_error(run("mpq-export", *command(out)), "unfinished training run", "--resume")
    done = run("mpq-export", *command(out), "--resume", "--train-steps", UPDATES + 1)
    assert_user_error(done, "differs in recipe.training.updates")
    done = run("mpq-export", *command(out), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == str(out)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    checked = run("mpq-check", out, "--ckpt", pipeline_folder, "--json")
    assert checked.returncode == 0, checked.stdout


def test_there_must_be_something_to_resume(export, request_for, tmp_path):
    request = request_for(tmp_path / "b", resume=True)
    with pytest.raises(ResumeError, match="no training run to resume"):
        export(request)
    with pytest.raises(RecipeError, match="Nothing is learned"):
        export(replace(request, recipe=request.recipe.trained_for(0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"guidance": 2.0}, "cannot be guided"), ({"eta": 0.5}, "takes no eta")],
    ids=["guidance", "eta"],
)
def test_what_trajectories_cannot_do_is_refused_before_anything(
    pipeline_folder, tmp_path, wrong, message
):
    """By a dry run too, and nothing is left that a corrected run would stumble over."""
    from mpq_export.trained_quantization import require_trainable

    recipe, scheduler = tmp_path / "recipe.yaml", tmp_path / "scheduler_config.json"
    recipe.write_text(yaml.safe_dump(RECIPE | wrong))
    scheduler.write_text(
        json.dumps({"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000})
    )
    choice = chosen_recipe(None, recipe, None)
    checkpoint = load_checkpoint(str(pipeline_folder / "unet"), None, scheduler)
    request = ExportRequest(choice.bits, choice.recipe, (), 3, 0, tmp_path / "b")
    with pytest.raises(RecipeError, match=message):
        export_checkpoint(checkpoint, request, fixtures.SilentProgress())
    require_trainable(checkpoint, choice.recipe.trained_for(0))
    done = run(
        "mpq-export", "--ckpt", pipeline_folder / "unet", "--scheduler", scheduler, "--recipe",
        recipe, "--out", tmp_path / "b", "--dry-run",
    )  # fmt: skip
    assert_user_error(done, message)
    assert {path.name for path in tmp_path.iterdir()} == {recipe.name, scheduler.name}


def test_the_images_of_an_update_are_bounded(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    training = {"groups": 4096, "images_per_group": 4096}
    recipe.write_text(yaml.safe_dump(RECIPE | {"training": training}))
    with pytest.raises(RecipeError, match="16,777,216 images in every update, at most 65,536"):
        chosen_recipe(None, recipe, None)


def test_texts_that_cannot_guide_are_refused_before_calibration(
    export, request_for, pipeline_folder, tmp_path
):
    """They are known only when a whole pipeline has encoded them."""
    from mpq_export.trained_quantization import TrainedQuantization

    request, progress = request_for(tmp_path / "b"), fixtures.SilentProgress()
    training = TrainedQuantization.of(load_checkpoint(pipeline_folder), request)
    guided = request.recipe.model_copy(update={"guidance": 2.0})
    training = replace(training, request=replace(request, recipe=guided))
    with pytest.raises(RecipeError, match="not in pairs"):
        training.run({"class_labels": torch.tensor([0, 1, 2])}, progress)
    assert progress.tasks == []
    assert list(tmp_path.iterdir()) == []


def test_a_launch_in_float16_is_refused(export, request_for, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(LaunchError, match="small gradients"):
        export(request_for(tmp_path / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_trained_bundle_is_replaced(whole, export, request_for, tmp_path):
    """By another export, with its log."""
    import shutil

    out = tmp_path / "b"
    shutil.copytree(whole, out)
    request = request_for(out)
    export(replace(request, recipe=request.recipe.trained_for(0)))
    assert not (out / "training").exists()
    read_bundle(out)
