"""What the README says can be typed, can be typed; what it quotes was measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpq_export.methods import chosen_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]

pytestmark = pytest.mark.slow


def test_the_commands_run_in_order_and_the_python_lines_on_what_they_made(tmp_path):
    """In a folder that holds nothing but a link to the pipelines."""
    assert any(command.startswith("mpq-export") for command in COMMANDS)
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    for command in COMMANDS:
        typed(["sh", "-c", command], tmp_path)
    assert (tmp_path / "out" / "grid.png").stat().st_size > 1000

    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "denoise" in b]
    code = "import numpy as np\nsample = np.zeros((2, 1, 16, 16), np.float32)\n"
    code += "labels = np.array([3, 7])\n" + block + "print(noise_prediction.shape)\n"
    assert typed([sys.executable, "-c", code], tmp_path).strip() == "(2, 1, 16, 16)"


def typed(arguments: list[str], folder: Path) -> str:
    """What a command prints that is typed in a folder and succeeds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=folder, env=os.environ | {"PATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([\w-]+)", README, re.M))))
def test_make_targets_exist(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


def test_links_and_pictures_are_there():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_recipes_are_recipes(tmp_path):
    choices = []
    for block in re.findall(r"```yaml\n(.*?)```", README, re.S):
        (tmp_path / "recipe.yaml").write_text(block)
        choices.append(chosen_recipe(None, tmp_path / "recipe.yaml", None))
    by_layer, trained = (choice.recipe for choice in choices)
    assert len(by_layer.layers) == 2
    assert trained.training.updates == 3000


def test_quoted_sizes_are_those_of_the_results():
    rows = json.loads((ROOT / "docs" / "results" / "size_table.json").read_text())["rows"]
    for row in rows:
        line = next(text for text in README.splitlines() if text.startswith(f"| {row['model']} |"))
        assert f"| {row['fp32_bytes'] / 1e6:.1f} |" in line
        assert f" {row['measured_bytes'] / 1e6:.1f} |" in line


def test_quoted_figures_are_those_of_the_results():
    report = json.loads((ROOT / "docs" / "results" / "demo.json").read_text())
    for row in report["rows"]:
        line = next(text for text in README.splitlines() if text.startswith(f"| {row['model']} |"))
        assert f"{row['accuracy']:.1%}" in line
        assert f"{row['packed_bytes']:,}" in line
        assert f"{row['frechet_data']:.2f}" in line
        assert f"| {row['average_weight_bits_all']:.2f} |" in line
        assert f"| {row['packed_bytes'] / row['fp32_bytes']:.1%} |" in line
        if row["psnr_full_precision"] is not None:
            assert f"{row['frechet_full_precision']:.2f}" in line
            assert f"| {row['psnr_full_precision']:.1f} |" in line
    assert f"{report['frechet_unpaired_full_precision']:.2f} apart" in README.replace("\n", " ")
