"""ONNX Runtime's sessions of baselines: graphs of standard operators, with its own defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...conditions import BATCH
from .graph_files import MODEL


def open_session(
    folder: Path, threads: int, batch: int | None = None, profile: Path | None = None
) -> Any:
    """A session on the CPU.

    Args:
        folder: of ``model.onnx``.
        threads: within an operator.
        batch: images per step where that is known: ONNX Runtime then folds what depends on it.
        profile: how the name of a profile begins that ``end_profiling`` writes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(
        str(folder / MODEL), options, providers=["CPUExecutionProvider"]
    )
