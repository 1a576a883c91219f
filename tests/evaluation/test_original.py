"""The checkpoint that a bundle is compared with."""

from dataclasses import replace

import fixtures
import pytest

from mpq_export.bundle import read_bundle
from mpq_export.errors import CheckpointError
from mpq_export.evaluation.original import load_original


def test_other_weights_are_refused(bundle_folder, pipeline_folder, tmp_path):
    bundle = read_bundle(bundle_folder)
    load_original(bundle, str(pipeline_folder))
    other = fixtures.save_pipeline(tmp_path / "other", fixtures.tiny_unet(seed=8))
    with pytest.raises(CheckpointError, match="not those that were quantised"):
        load_original(bundle, str(other))


def test_a_bundle_without_a_digest_takes_any(bundle_folder, tmp_path):
    bundle = read_bundle(bundle_folder)
    old = bundle.quantization.model_copy(update={"source_sha256": None})
    other = fixtures.save_pipeline(tmp_path / "other", fixtures.tiny_unet(seed=8))
    load_original(replace(bundle, quantization=old), str(other))


def test_another_architecture_is_refused(bundle_folder, tmp_path):
    other = fixtures.save_pipeline(tmp_path / "other", fixtures.tiny_unet(channels=1))
    with pytest.raises(CheckpointError, match="another architecture"):
        load_original(read_bundle(bundle_folder), str(other))
