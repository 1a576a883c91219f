"""Inputs of the model beside this folder, as ``inputs.json`` describes them.

For Polygraphy::

    polygraphy run onnx/onnx/model.onnx --onnxrt --data-loader-script onnx/trt/tools/data_loader.py

For trtexec, which reads files of bytes; prints the options that name them::

    python onnx/trt/tools/data_loader.py inputs

``MPQ_BATCH`` sets the number of images, 1 if it is not set. The same numbers every time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
DESCRIPTION = Path(__file__).with_name("inputs.json")


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """One set of inputs for every step that the model has tables for."""
    described = json.loads(DESCRIPTION.read_text())
    batch = int(os.environ.get("MPQ_BATCH", "1"))
    rng = np.random.default_rng(SEED)
    for index, timestep in enumerate(described["timesteps"]):
        feed = {name: draw(entry, batch, rng) for name, entry in described["inputs"].items()}
        feed["timestep"] = np.array([timestep], np.float32)
        feed["step_index"] = np.array([index], np.int32)
        yield feed


def draw(entry: dict[str, Any], batch: int, rng: np.random.Generator) -> np.ndarray:
    """Values for one input, a row per image."""
    shape = (batch, *entry["shape"])
    if "values" in entry:
        return np.broadcast_to(np.array(entry["values"], entry["dtype"]), shape).copy()
    if "below" in entry:
        return rng.integers(0, entry["below"], shape).astype(entry["dtype"])
    return rng.standard_normal(shape).astype(entry["dtype"])


def write_files(folder: Path) -> str:
    """The first step's inputs as files of bytes, and trtexec's options for them."""
    folder.mkdir(parents=True, exist_ok=True)
    feed = next(load_data())
    for name, value in feed.items():
        value.tofile(folder / f"{name}.bin")
    described = json.loads(DESCRIPTION.read_text())
    shapes = [f"{n}:{'x'.join(map(str, feed[n].shape))}" for n in described["inputs"]]
    files = [f"{name}:{folder / name}.bin" for name in feed]
    return f"--shapes={','.join(shapes)} --loadInputs={','.join(files)}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder for the files, for example: inputs")
    print(write_files(Path(sys.argv[1])))
