"""Runs saved models and says which give what they should; started by an emulated processor.

Arguments: a folder with ``<name>.onnx`` and ``<name>.npz`` (X, step_index, expected). Prints one
JSON object: for every model, with and without ``session.x64quantprecision``, whether its output is
exactly the expected one. Needs nothing but numpy and ONNX Runtime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def run(model: Path, exact_int8: bool) -> np.ndarray:
    """The output of a model for its feeds."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if exact_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = np.load(model.with_suffix(".npz"))
    return session.run(None, {name: feeds[name] for name in ("X", "step_index")})[0]


def main(folder: Path) -> None:
    """Run every model of the folder both ways."""
    result = {}
    for model in sorted(folder.glob("*.onnx")):
        expected = np.load(model.with_suffix(".npz"))["expected"]
        result[model.stem] = {
            key: bool(np.array_equal(run(model, exact), expected))
            for key, exact in (("plain session", False), ("exact session", True))
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
