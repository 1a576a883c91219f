"""Shared fixtures. Heavy packages are imported only by the fixtures that need them."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

# Tests in every folder import their helpers by name.
sys.path.insert(0, os.path.dirname(__file__))

# Read by torch and OpenMP when they start: tests are small and share their cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fixtures
import pytest
from made_once import MadeOnce

from mpq_export.bundle import Bundle, write_bundle


@pytest.fixture
def handmade(tmp_path: Path) -> Bundle:
    """The handmade bundle, written to its folder."""
    made = fixtures.handmade_bundle(tmp_path / "bundle")
    made.path.mkdir()
    write_bundle(made.path, made)
    return made


@pytest.fixture
def handmade_folder(handmade: Bundle) -> Path:
    """Its folder."""
    return handmade.path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Folders that one of pytest-xdist's workers makes for all of them; do not change them."""
    return MadeOnce(tmp_path_factory)


@pytest.fixture(scope="session")
def pipeline_folder(made_once: MadeOnce) -> Path:
    """The tiny full-precision model as a diffusers pipeline folder; do not change it."""
    return made_once("tiny-pipeline", fixtures.save_pipeline)


@pytest.fixture(scope="session")
def digits_folder(made_once: MadeOnce) -> Path:
    """A tiny model of the digits family as w3a4, lowered for ONNX Runtime; do not change it."""
    from mpq_export.lowering.names import Target

    def make(folder: Path) -> None:
        model = fixtures.tiny_unet(channels=1, classes=10)
        pipeline = fixtures.save_pipeline(folder / "pipeline", model, "DigitsPipeline")
        fixtures.quantized_bundle(pipeline, folder / "bundle", targets=(Target.ORT,))

    return made_once("tiny-digits", make) / "bundle"


@pytest.fixture(scope="session")
def bundle_folder(pipeline_folder: Path, made_once: MadeOnce) -> Path:
    """The tiny model quantised to w3a4 by MPQ-DM; do not change it."""
    return made_once("tiny-bundle", partial(fixtures.quantized_bundle, pipeline_folder))


@pytest.fixture(scope="session")
def cached_folder(pipeline_folder: Path, made_once: MadeOnce) -> Path:
    """The tiny model as w4a8 with cached temporal features, lowered to all targets; do not change
    it."""
    return made_once("cached", partial(fixtures.cached_bundle, pipeline_folder))


@pytest.fixture(scope="session")
def lowered_folder(pipeline_folder: Path, made_once: MadeOnce) -> Path:
    """The tiny model as w3a4 by MPQ-DMv2, lowered to all targets; do not change it."""
    return made_once("lowered", partial(fixtures.exported_bundle, pipeline_folder))
