"""Exports that train: a whole run, and runs that were stopped, killed, or shared out."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch
import yaml
from commands import assert_user_error, run
from PIL import Image

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.errors import Interrupted, RecipeError
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.files import require_replaceable
from mpq_export.methods import chosen_recipe
from mpq_export.training.launch import LaunchError
from mpq_export.training.state_file import TrainingStateError, read_state
from mpq_export.training_folder import ResumeError

WEIGHTS, UPDATES = "weights.safetensors", 10
RECIPE = {
    "method": "mpq-dmv2", "bits": "w3a4", "weight_form": "uniform", "allocation": "equal",
    "calibration_images": 4,
    "training": {"updates": UPDATES, "groups": 2, "images_per_group": 1, "rank": 4},
}  # fmt: skip
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


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


@pytest.fixture(scope="module")
def request_for(recipe_file):
    choice = chosen_recipe(None, recipe_file, None)

    def make(out, resume=False, **changes):
        request = ExportRequest(
            choice.bits, choice.recipe, (), fixtures.NUM_STEPS, 0, out, resume=resume
        )
        return replace(request, **changes)

    return make


@pytest.fixture(scope="module")
def export(pipeline_folder):
    """Export in this process; a checkpoint's model is consumed, so that each run has its own."""

    def run(request, progress=None):
        progress = progress or fixtures.SilentProgress()
        return export_checkpoint(load_checkpoint(pipeline_folder), request, progress)

    return run


@pytest.fixture(scope="module")
def whole(export, request_for, tmp_path_factory):
    """The bundle of a run that nothing stopped; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "b"
    export(request_for(out))
    return out


@pytest.fixture
def command(pipeline_folder, recipe_file):
    """The words of the command that makes such a bundle."""

    def words(out):
        return [
            "--ckpt", pipeline_folder, "--recipe", recipe_file, "--inference-steps",
            fixtures.NUM_STEPS, "--out", out,
        ]  # fmt: skip

    return words


def started(words, code=SAVING_ALWAYS):
    """The command in a process of its own that saves after every update."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs, such as this very run of the tests, are deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for_updates(process, out):
    """Until the training run of ``out`` has been saved."""
    state = out.with_name(f"{out.name}.training") / "state.safetensors"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    return state


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
    assert progress.tasks[:2] == ["sensitivity", "train"], "nothing is calibrated again"
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
    with pytest.raises(RecipeError, match="Nothing is trained"):
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


# --- several processes ------------------------------------------------------------------------


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def starting(*words):
    """A module or script, being run by two processes that share the work on one CPU.

    accelerate's own launcher starts a single process there.
    """
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
            "--master_port", str(free_port()), *map(str, words),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def launched(*words):
    """The same, when it has ended."""
    process = starting(*words)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


RECORDING = """
import sys
from pathlib import Path
from mpq_export.cli.export import main
from mpq_export.methods import train as training
from mpq_export.training import loop

loop._SECONDS_BETWEEN_SAVES = 0.0
records, ended = Path(sys.argv.pop(1)), training.train

def train(trainer, *rest):
    try:
        ended(trainer, *rest)
    finally:
        rank, world = trainer.processes.process_index, trainer.processes.num_processes
        (records / f"{rank} of {world}").write_text(str(trainer.update))

training.train = train
main()
"""


@pytest.fixture
def recording(tmp_path):
    """A script that exports, and its folder of records: how far each process has trained."""
    script, records = tmp_path / "recording.py", tmp_path / "records"
    script.write_text(RECORDING)
    records.mkdir()
    return [script, records]


def updates_done(recording):
    """By the name of the process."""
    return {file.name: int(file.read_text()) for file in recording[1].iterdir()}


@pytest.mark.slow
def test_two_processes_make_one_bundle(whole, command, recording, tmp_path):
    """The same images and labels, so that the runs differ by rounding alone at first."""
    out = tmp_path / "out" / "b"
    done = launched(*recording, *command(out))
    assert done.returncode == 0, done.stderr
    assert updates_done(recording) == {"0 of 2": UPDATES, "1 of 2": UPDATES}
    assert {path.name for path in out.parent.iterdir()} == {"b"}
    assert done.stdout.count("Next: mpq-sample") == 1
    one, other = (
        np.genfromtxt(folder / "training" / "training.csv", delimiter=",", names=True)
        for folder in (whole, out)
    )
    assert len(other) == UPDATES
    np.testing.assert_allclose(other["task"][0], one["task"][0], rtol=0.02)
    np.testing.assert_allclose(other["task"].mean(), one["task"].mean(), rtol=0.2)
    read_bundle(out)


@pytest.mark.slow
def test_ctrl_c_stops_two_processes_at_the_same_update(
    pipeline_folder, recipe_file, recording, tmp_path
):
    """As a terminal sends it: to the launcher's whole group."""
    out, words = tmp_path / "out" / "b", ["--inference-steps", fixtures.NUM_STEPS]
    words += ["--ckpt", pipeline_folder, "--recipe", recipe_file, "--out", out]
    words += ["--train-steps", 2000]
    process = starting(*recording, *words)
    state = wait_for_updates(process, out)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    done = updates_done(recording)
    assert done.keys() == {"0 of 2", "1 of 2"}, stderr
    (stopped_at,) = set(done.values())
    assert 1 <= stopped_at < 2000
    assert stderr.count(f"Stopped after {stopped_at} of 2000 updates") == 2, stderr
    assert len(read_state(state).records) == stopped_at
    assert {path.name for path in out.parent.iterdir()} == {"b.training"}
    assert {path.name for path in state.parent.iterdir()} == {
        "run.json", "start", "conditions.safetensors", "state.safetensors"
    }  # fmt: skip


GRADIENTS = """
import sys
import torch
from accelerate import Accelerator
sys.path.insert(0, sys.argv[2])
import fixtures
from mpq_export.training.choices import TrainingChoices
from mpq_export.training.loop import Trainer
from mpq_export.training.student import build_student
from mpq_export.training.trajectory_pool import PoolSettings, TrajectoryPool
from pathlib import Path

processes, teacher = Accelerator(), fixtures.tiny_unet()
config = {**teacher.config, "_class_name": "UNet2DModel"}
choices = TrainingChoices(updates=4, groups=2, images_per_group=2)
student = build_student(teacher, fixtures.layer_starts(Path(sys.argv[1]), teacher), choices, 0)
trainer = Trainer(student, None, choices, config, processes, torch.ones(20))
pool = TrajectoryPool(
    teacher, config, {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"},
    PoolSettings(2, 2, 3), 5, rank=processes.process_index, world=processes.num_processes,
)
trainer.step(pool.next(), pool, lambda: None)
gradients = {name: p.grad for name, p in student.module.named_parameters() if p.grad is not None}
loss = torch.tensor(trainer.records[0].loss)
torch.save({**gradients, "loss": loss}, f"{sys.argv[3]}.{processes.process_index}")
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(bundle_folder, tmp_path):
    """Of the same global batch, to rounding; and both of them the same bits."""
    script, tests = tmp_path / "gradients.py", os.path.dirname(fixtures.__file__)
    script.write_text(GRADIENTS)
    words = [bundle_folder, tests]
    alone = subprocess.run(
        [sys.executable, script, *words, tmp_path / "alone"], capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    done = launched(script, *words, tmp_path / "both")
    assert done.returncode == 0, done.stderr
    one = torch.load(tmp_path / "alone.0")
    first, second = (torch.load(tmp_path / f"both.{rank}") for rank in (0, 1))
    assert one.keys() == first.keys()
    for name, gradient in one.items():
        assert torch.equal(first[name], second[name]), name
        # Some, such as those of keys' biases, are 0 but for rounding.
        allowed = 1e-9 + 0.02 * float(gradient.abs().max())
        assert float((first[name] - gradient).abs().max()) < allowed, name


@pytest.mark.slow
def test_groups_that_cannot_be_shared_are_refused_at_once(pipeline_folder, tmp_path):
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"training": {"updates": 3, "groups": 3}}))
    done = launched(
        "-m", "mpq_export.cli.export", "--ckpt", pipeline_folder, "--recipe", recipe,
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert done.returncode != 0
    assert "3 groups cannot be shared by 2 processes" in done.stderr
    assert "calibrate" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"odd.yaml"}
