"""A baseline as a denoiser: called in the same way as a bundle, by the same pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...lowering.graph_inputs import SAMPLE, TIMESTEP
from ...runtimes.names import Runtime
from ...runtimes.selection import Selection
from .graph_files import config_of
from .sessions import open_session


class OnnxDenoiser:
    """Arrays are ``numpy.ndarray``.

    Attributes:
        model_config: diffusers' component config.
        session: the ``onnxruntime.InferenceSession``.
        selection: ONNX Runtime, on standard operators.
    """

    array_type: type = np.ndarray

    def __init__(
        self, folder: Path, threads: int, batch: int | None = None, profile: Path | None = None
    ) -> None:
        self.model_config: Mapping[str, Any] = config_of(folder)
        self.session = open_session(folder, threads, batch, profile)
        self.selection = Selection(Runtime.ONNX, Runtime.ONNX, "standard operators")
        self._taken = {value.name for value in self.session.get_inputs()}

    def __call__(self, sample: np.ndarray, timestep: float, **conditions: np.ndarray) -> np.ndarray:
        """Predict for float32 ``[B, C, H, W]``."""
        feeds = {SAMPLE: sample, TIMESTEP: np.array([timestep], np.float32), **conditions}
        prediction: np.ndarray = self.session.run(
            None, {name: value for name, value in feeds.items() if name in self._taken}
        )[0]
        return prediction
