"""Engines of a fake TensorRT in a bundle: written, opened, and what they are given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import PLAN, FakeTensorRt, FakeTensorRtRtx

from mpq_export.bundle import Bundle, read_bundle
from mpq_export.files import write_json
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import lowered_files
from mpq_export.runtimes.cuda.gpu import find_gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt.denoiser import TensorRtDenoiser
from mpq_export.runtimes.tensorrt.engine_files import (
    EngineIdentity,
    EngineRecord,
)
from mpq_export.runtimes.tensorrt.installed import Installed
from mpq_export.runtimes.tensorrt.loaded_engine import load_with
from mpq_export.runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE

HERE, RTX = Installed(Runtime.TRT, "10.3.0"), Installed(Runtime.TRT_RTX, "1.7.1")


def put_engine(folder: Path, plan: bytes = PLAN, **changes: Any) -> EngineRecord:
    """An engine with its record, as ``mpq-build`` writes it."""
    own = {
        "model": "UNet2DModel", "bits": "w3a4", "target": "trt", "shapes": {"batch": [1, 1, 4]},
        "runtime": "trt", "tensorrt": "10.3.0", "capabilities": ["86"], "plugin": "1.mma-1",
        "multiprocessors": 8, "memory_limit_mb": None, "builder": "bindings", "settings": 1,
        "model_files": lowered_files(folder, Target.TRT),
    }  # fmt: skip
    record = EngineRecord(
        identity=EngineIdentity(**{**own, **changes}),
        sha256=hashlib.sha256(plan).hexdigest(), size=len(plan), constants=1, seconds=1, peak_mb=1,
    )  # fmt: skip
    (folder / "engine").mkdir(exist_ok=True)
    (folder / "engine" / record.plan).write_bytes(plan)
    write_json(folder / "engine" / f"{record.identity.name}.json", record.model_dump())
    return record


def opened(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> TensorRtDenoiser:
    monkeypatch.setenv(PLUGIN_VARIABLE, str(folder / "config.json"))  # any file: the fake loads it
    bundle = read_bundle(folder)
    here = RTX if isinstance(trt, FakeTensorRtRtx) else HERE
    loaded = load_with(trt, here, cuda.driver, find_gpu(cuda.driver), bundle)
    return TensorRtDenoiser(bundle, loaded)


def inputs(bundle: Bundle, images: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((images, 2, 8, 8), dtype=np.float32)
    return sample, {"class_labels": rng.integers(0, 4, images)}
