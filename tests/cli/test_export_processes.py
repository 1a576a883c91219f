"""Exports that several processes train together."""

import os
import signal
import socket
import subprocess
import sys

import fixtures
import numpy as np
import pytest
import torch
import yaml
from training_runs import RECIPE, UPDATES, wait_for_updates

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.evaluation.whole_model import prediction_error
from mpq_export.methods import chosen_recipe
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime
from mpq_export.training.state_file import read_state
from mpq_export.training.trajectories import full_precision_trajectory


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
trainer = Trainer(student, None, choices, config, processes, torch.ones(20, 2))
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


LONGER = RECIPE | {
    "bits": "w2a4",
    "training": {"updates": 40, "groups": 4, "images_per_group": 2, "rank": 4},
}


def noise_error(pipeline, folder):
    """Of a bundle's predictions along full-precision trajectories that training has not seen."""
    checkpoint = load_checkpoint(pipeline)
    trajectory = full_precision_trajectory(
        checkpoint.model, checkpoint.model_config, checkpoint.scheduler_config,
        fixtures.NUM_STEPS, 32, 99,
    )  # fmt: skip
    denoise = open_denoiser(read_bundle(folder), Runtime.TORCH)
    pairs = [
        (denoise(step.sample, float(step.timestep), **step.conditions), step.prediction)
        for step in trajectory
    ]
    predictions, reference = zip(*((a.numpy(), b.numpy()) for a, b in pairs), strict=True)
    return prediction_error(predictions, reference).relative


@pytest.mark.slow
def test_what_two_processes_train_is_as_good_as_what_one_does(
    pipeline_folder, export, request_for, tmp_path
):
    """Within the seeds' spread, on a run in which training matters much more than the seed."""

    def alone(name, seed, **changes):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(LONGER | changes))
        choice = chosen_recipe(None, recipe, None)
        out = tmp_path / name
        export(request_for(out, recipe=choice.recipe, bits=choice.bits, seed=seed))
        return noise_error(pipeline_folder, out)

    errors = [alone(f"seed{seed}", seed) for seed in range(3)]
    untrained = alone("untrained", 0, training={"updates": 0})
    done = launched(
        "-m", "mpq_export.cli.export", "--ckpt", pipeline_folder, "--recipe",
        tmp_path / "seed0.yaml", "--inference-steps", fixtures.NUM_STEPS,
        "--out", tmp_path / "both",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both = noise_error(pipeline_folder, tmp_path / "both")
    spread = max(errors) - min(errors)
    assert max(errors) + 3 * spread < untrained
    assert min(errors) - spread < both < max(errors) + spread


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
