"""``mpq-sample`` into a folder, by launched processes; and options that do not fit."""

import json
import subprocess
import sys

import pytest
from commands import BIN, assert_user_error, run
from PIL import Image


def launched(number, count, *words):
    environment = {"RANK": str(number), "WORLD_SIZE": str(count)}
    return run("mpq-sample", *words, environment=environment)


def drawn_by_launcher(launcher, bundle, out, count, steps=1):
    """What a launcher's words and ours say, and how many images there are."""
    words = [*launcher, "mpq_export.cli.sample", bundle, "--num-images", count, "--steps", steps]
    words = [str(word) for word in [*words, "--images", out]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done, len(list((out / "images").iterdir()))


def test_launched_processes_share_a_folder(digits_folder, tmp_path):
    words = (digits_folder, "--num-images", 20, "--steps", 2, "--images", tmp_path / "out")
    reference = tmp_path / "out.safetensors"
    first = launched(0, 2, *words, "--save-reference", reference, "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert (report["drawn"], report["share"], report["reference"]) == (16, "0-of-2", None)
    last = launched(1, 2, *words, "--save-reference", reference)
    assert last.returncode == 0, last.stderr
    assert "4 of 20 images drawn" in last.stdout
    assert f"reference: {reference}" in last.stdout
    files = sorted((tmp_path / "out" / "images").iterdir())
    assert [file.name for file in files] == [f"{number:06}.png" for number in range(20)]
    with Image.open(files[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    again = run("mpq-sample", *words)
    assert "0 of 20 images drawn" in again.stdout


def test_torchrun_starts_processes_that_share_the_work(digits_folder, tmp_path):
    torchrun = [BIN / "torchrun", "--nproc-per-node", 2, "-m"]
    done, drawn = drawn_by_launcher(torchrun, digits_folder, tmp_path / "out", 40, steps=2)
    assert "share 0-of-2" in done.stdout
    assert "share 1-of-2" in done.stdout
    assert drawn == 40
    assert sys.executable.startswith(str(BIN))


def test_accelerates_launcher_starts_one_process_on_a_processor_which_draws_all(
    digits_folder, tmp_path
):
    """It sets no rank there, whatever its --num_processes; with GPUs it is torch's launcher."""
    accelerate = [BIN / "accelerate", "launch", "--cpu", "--num_processes", 2, "--module"]
    done, drawn = drawn_by_launcher(accelerate, digits_folder, tmp_path / "out", 20)
    assert "Only this one process draws" in done.stderr
    assert done.stdout.count("20 of 20 images drawn") == 1
    assert "share 0-of-1" in done.stdout
    assert drawn == 20


def test_accelerates_launcher_of_several_numbers_its_processes(digits_folder, tmp_path):
    """--multi_gpu is torch's launcher, also where there is no GPU; with several it is taken
    unasked."""
    accelerate = [
        BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1,
        "--main_process_port", 0, "--mixed_precision", "no", "--dynamo_backend", "no", "--module",
    ]  # fmt: skip
    done, drawn = drawn_by_launcher(accelerate, digits_folder, tmp_path / "out", 40)
    assert "share 0-of-2" in done.stdout
    assert "share 1-of-2" in done.stdout
    assert drawn == 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--save-reference", "x"], ["--save-reference", "--images"]),
        (["--ckpt", "x"], ["--ckpt", "--images"]),
        (["--num-images", "200000"], ["no grid", "--images"]),
        (["--images", "d", "--out", "x.png"], ["--out", "--images"]),
        (["--images", "d", "--ckpt", "x", "--runtime", "onnx"], ["--runtime", "onnx", "--ckpt"]),
    ],
)
def test_options_that_do_not_fit_are_refused(digits_folder, tmp_path, words, said):
    assert_user_error(run("mpq-sample", digits_folder, *words, cwd=tmp_path), *said)
    assert not list(tmp_path.iterdir())


def test_launched_processes_draw_no_grid(digits_folder, tmp_path):
    """Each would write the same file."""
    out = tmp_path / "grid.png"
    done = launched(1, 2, digits_folder, "--num-images", 4, "--steps", 1, "--out", out)
    assert_user_error(done, "Several processes", "--images")
    assert not out.exists()
    done = launched(0, 1, digits_folder, "--num-images", 4, "--steps", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_a_checkpoint_draws_in_torch_and_that_is_reported(digits_folder, tmp_path):
    words = [digits_folder, "--ckpt", digits_folder.parent / "pipeline", "--num-images", 2,
             "--steps", 1, "--images", tmp_path / "out", "--json"]  # fmt: skip
    report = json.loads(run("mpq-sample", *words).stdout)
    assert (report["runtime"], report["runs"]) == ("torch", "torch")
    again = run("mpq-sample", *words, "--runtime", "torch")
    assert json.loads(again.stdout)["drawn"] == 0


def test_prompts_of_two_megabytes_are_refused(digits_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n" * 400_000)
    done = run("mpq-sample", digits_folder, "--prompts", tmp_path / "prompts.txt", cwd=tmp_path)
    assert_user_error(done, "empty or too long", "prompts.txt")
