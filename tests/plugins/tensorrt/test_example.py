"""The C++ example's loop without an engine: the steps that our sampler takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mpq_export.bundle import read_bundle
from mpq_export.ddim_table import ddim_table
from mpq_export.errors import BundleError, CheckpointError
from mpq_export.samplers.registry import open_sampler

from .driver import SOURCES

BUNDLE = Path(__file__).parents[2] / "golden" / "bundle"
IMAGES = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cxx, made = os.environ.get("CXX", "g++"), tmp_path_factory.mktemp("example") / "run_ddim"
    if shutil.which(cxx) is None and not os.environ.get("CI"):
        pytest.skip("There is no C++ compiler")
    sources = [SOURCES / "tests" / "run_ddim.cpp", *(SOURCES / "example").glob("[dj]*.cpp")]
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-D_GLIBCXX_ASSERTIONS"]
    subprocess.run([cxx, *flags, "-o", made, *sources], check=True)
    return made


def model(**options: object) -> SimpleNamespace:
    """A small bundle with options of its scheduler changed."""
    bundle = read_bundle(BUNDLE)
    config = {**bundle.scheduler_config, **options}
    return SimpleNamespace(
        model_config=bundle.model_config, scheduler_config=config, timesteps=bundle.timesteps
    )


def walked(bundle: SimpleNamespace, steps: int, indices: list[int]) -> np.ndarray:
    """The same loop by our sampler."""
    sampler = open_sampler(bundle.scheduler_config, steps)
    channels, size = bundle.model_config["in_channels"], bundle.model_config["sample_size"]
    shape = (IMAGES, channels, size, size)
    sample = np.float32(0.01) * np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for index, step_index in enumerate(indices):
        prediction = np.float32(0.3) * sample + np.float32(0.1) * np.float32(step_index)
        sample, _ = sampler.step(index, sample, prediction, (), np.zeros_like)
    return sample


@pytest.mark.parametrize(
    "options",
    [
        {}, {"prediction_type": "sample"}, {"prediction_type": "v_prediction"},
        {"clip_sample": False}, {"clip_sample_range": 0.5, "set_alpha_to_one": False},
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", [3, 7])
def test_the_loop_takes_our_samplers_steps(
    program: Path, tmp_path: Path, options: dict[str, object], steps: int
) -> None:
    bundle = model(timestep_spacing="trailing", _class_name="DDIMScheduler",
                   **options)  # fmt: skip
    table, path = ddim_table(bundle, steps), tmp_path / "ddim.json"
    path.write_text(json.dumps(table))
    done = subprocess.run([program, path, str(IMAGES)], capture_output=True, check=True)
    expected = walked(bundle, steps, [step["step_index"] for step in table["steps"]])
    found = np.frombuffer(done.stdout, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.std(expected) > 0.01


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1, 2", "[" * 99, "{1}", '{"format": 2}', '{"format": 1, "sampler": "euler"}',
        '{"format": 1, "sampler": "ddim", "sample_shape": [1], "steps": []}',
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(program: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "ddim.json"
    path.write_text(text)
    done = subprocess.run([program, path, "1"], capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert done.stderr


def test_other_samplers_have_no_table() -> None:
    for options in (
        {"_class_name": "EulerDiscreteScheduler", "clip_sample": False},
        {"_class_name": "DDIMScheduler", "thresholding": True},
    ):
        with pytest.raises(CheckpointError):
            ddim_table(model(**options), 3)


def test_a_model_with_other_conditions_has_no_table() -> None:
    bundle = model(_class_name="DDIMScheduler")
    bundle.model_config = {
        **bundle.model_config, "_class_name": "UNet2DConditionModel", "cross_attention_dim": 8
    }  # fmt: skip
    with pytest.raises(BundleError, match="class labels"):
        ddim_table(bundle, 3)
