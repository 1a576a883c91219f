"""What TensorRT-RTX compiles for a GPU when an engine first runs there, kept for the next time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import staged_file
from ..gpu_kernels.cache_folder import own_cache_folder
from .loaded_engine import LoadedEngine

_log = logging.getLogger(__name__)


class RuntimeCache:
    """Of one engine on one GPU; nothing for TensorRT itself, whose plans hold compiled code.

    Attributes:
        config: the runtime config that contexts are made with; None for TensorRT itself.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        """Begin with what an earlier process has compiled."""
        self.config: Any = None
        self._kept = b""
        engine = loaded.engine
        if not hasattr(loaded.trt, "IRuntimeCache"):
            return
        self._path = _path(loaded)
        self.config = engine.create_runtime_config()
        # Compiled before a step is recorded: what is compiled later a recorded step never calls.
        self.config.dynamic_shapes_kernel_specialization_strategy = (
            loaded.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._cache = self.config.create_runtime_cache()
        if self._path is not None and self._path.is_file():
            self._kept = self._path.read_bytes()
            self._cache.deserialize(self._kept)  # of another version it is no more than useless
        self.config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write what has been compiled since; a failure costs time, not results, and is logged."""
        if self.config is None or self._path is None:
            return
        if (now := bytes(self._cache.serialize())) == self._kept:
            return
        try:
            with staged_file(self._path) as stage:
                stage.write_bytes(now)
        except UserError as error:
            _log.warning("%s", error)
        self._kept = now


def _path(loaded: LoadedEngine) -> Path | None:
    """Named by the plan and the GPU; None where the user has no place for it."""
    try:
        return own_cache_folder() / f"compiled-{loaded.record.sha256[:16]}-sm{loaded.gpu.sm}.cache"
    except UserError as error:
        _log.warning("%s", error)
        return None
