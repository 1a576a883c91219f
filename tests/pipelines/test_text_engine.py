"""A model that takes text, in TensorRT-RTX: its number of tokens is a range of its own."""

from __future__ import annotations

from pathlib import Path

import fixtures
import pytest
from marks import needs_tensorrt_rtx
from tiny_pipelines import save_stable_diffusion

from mpq_export.bundle import read_bundle
from mpq_export.lowering.names import Target
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt.engine_builds import EngineRequest, build


@pytest.mark.tensorrt
@pytest.mark.slow
@needs_tensorrt_rtx
def test_an_engine_for_ranges_of_images_and_tokens(tmp_path: Path) -> None:
    pipeline = save_stable_diffusion(tmp_path / "pipeline")
    folder = fixtures.quantized_bundle(pipeline, tmp_path / "b", "rtn", targets=(Target.TRT,))
    request = EngineRequest(Target.TRT, Runtime.TRT_RTX, "batch:2,tokens:8..77")
    warnings: list[str] = []
    engine = build(read_bundle(folder), request, fixtures.SilentProgress(), warnings.append)
    assert engine.record.identity.shapes == {"batch": [2, 2, 2], "tokens": [8, 77, 77]}
    assert "batch2-tokens8to77" in engine.path.name
    assert warnings == []
