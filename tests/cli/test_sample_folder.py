"""``mpq-sample`` into a folder, by launched processes; and options that do not fit."""

import json
import sys

import pytest
from commands import BIN, assert_user_error, run
from PIL import Image


def launched(number, count, *words):
    environment = {"RANK": str(number), "WORLD_SIZE": str(count)}
    return run("mpq-sample", *words, environment=environment)


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
    import subprocess

    words = [
        str(BIN / "torchrun"), "--nproc-per-node", "2", "-m", "mpq_export.cli.sample",
        str(digits_folder), "--num-images", "40", "--steps", "2", "--images", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "share 0-of-2" in done.stdout
    assert "share 1-of-2" in done.stdout
    assert len(list((tmp_path / "out" / "images").iterdir())) == 40
    assert sys.executable.startswith(str(BIN))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--save-reference", "x"], ["--save-reference", "--images"]),
        (["--ckpt", "x"], ["--ckpt", "--images"]),
        (["--num-images", "200000"], ["no grid", "--images"]),
    ],
)
def test_options_of_a_folder_want_one(digits_folder, tmp_path, words, said):
    assert_user_error(run("mpq-sample", digits_folder, *words, cwd=tmp_path), *said)
    assert not list(tmp_path.iterdir())


def test_prompts_of_two_megabytes_are_refused(digits_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n" * 400_000)
    done = run("mpq-sample", digits_folder, "--prompts", tmp_path / "prompts.txt", cwd=tmp_path)
    assert_user_error(done, "empty or too long", "prompts.txt")
