"""A real environment of a board: the wheel with its ``runtime`` extra and nothing else."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXPECTED = {"numpy", "onnx", "onnxruntime", "pillow", "pydantic", "rich", "safetensors", "typer"}
HEAVY = {
    "accelerate", "diffusers", "huggingface-hub", "onnxscript", "scipy", "scikit-image",
    "scikit-learn", "tokenizers", "torch", "torchmetrics", "transformers",
}  # fmt: skip
MOST_MEGABYTES = 300

pytestmark = pytest.mark.slow


def run(*words: object) -> str:
    """A command's output; it must succeed, and must not see this checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds what ``mpq-export[runtime]`` brings."""
    folder = tmp_path_factory.mktemp("board")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("mpq_export-*.whl")
    venv.create(folder / "env", with_pip=False)
    constraints = ROOT / "constraints.txt"
    board = folder / "env" / "bin"
    run(*pip, "--python", board / "python", "install", "-c", constraints, f"{wheel}[runtime]")
    return board


def test_only_what_inference_needs_is_installed(board):
    code = """
import json
from importlib.metadata import distributions
found = list(distributions())
size = sum(f.locate().stat().st_size for d in found for f in d.files or () if f.locate().is_file())
names = [d.metadata["Name"].lower().replace("_", "-") for d in found]
print(json.dumps({"names": names, "megabytes": size / 1e6}))
"""
    installed = json.loads(run(board / "python", "-I", "-c", code))
    names = set(installed["names"])
    print(f"{installed['megabytes']:.0f} MB: {', '.join(sorted(names))}")
    assert names >= EXPECTED | {"mpq-export"}
    assert not names & HEAVY
    assert installed["megabytes"] < MOST_MEGABYTES


def test_a_bundle_is_drawn_and_examined(board, digits_folder, tmp_path):
    out = tmp_path / "grid.png"
    words = ("--num-images", 8, "--out", out, "--json")
    report = json.loads(run(board / "mpq-sample", digits_folder, *words))
    assert report["sampler"] == "numpy"
    assert report["scheduler"] == "DDIMScheduler"
    with Image.open(out) as picture:
        assert picture.size == (8 * 50 + 2, 50 + 2)
        assert len(np.unique(np.asarray(picture))) > 10
    assert "verified" in run(board / "mpq-doctor", digits_folder)


@pytest.mark.parametrize(
    ("words", "extra"), [(("mpq-check",), "check"), (("mpq-sample", "--runtime", "torch"), "cpu")]
)
def test_what_is_not_installed_is_named(board, digits_folder, words, extra):
    command = [board / words[0], digits_folder, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install 'mpq-export[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
