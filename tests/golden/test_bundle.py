"""The committed bundle of format version 1 opens and runs, whatever this program has become."""

import hashlib

import pytest
from fixtures import SilentProgress

from golden.make_bundle import BUNDLE
from mpq_export.bundle import CORE_FILES, read_bundle, write_bundle
from mpq_export.evaluation.check import check_bundle
from mpq_export.runtimes.names import Runtime

WEIGHTS_SHA256 = "f79ea10d5484f684ef846035ca054f6b2699a9e7237e208be1ee1ddfc3620a02"


def test_the_files_are_the_ones_that_were_committed():
    data = (BUNDLE / "weights.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == WEIGHTS_SHA256


def test_it_opens_and_every_field_is_there():
    bundle = read_bundle(BUNDLE)
    assert str(bundle.bits) == "w3a4"
    assert len(bundle.layers) == 51
    assert bundle.timesteps.tolist() == [999, 666, 332]
    planes = {len(layer.weight.plane_rows) for layer in bundle.layers.values()}
    assert max(planes) == 8
    assert planes <= {3, 4, 8}


@pytest.mark.parametrize("runtime", [Runtime.ORT, Runtime.ORT_FUNCTIONS])
def test_every_node_is_exact(runtime):
    report = check_bundle(read_bundle(BUNDLE), runtime, None, 3, 2, 0, SilentProgress())
    assert report.passed
    assert len(report.nodes) == 51


def test_writing_it_again_gives_the_same_bytes(tmp_path):
    write_bundle(tmp_path, read_bundle(BUNDLE))
    for name in CORE_FILES:
        assert (tmp_path / name).read_bytes() == (BUNDLE / name).read_bytes()
