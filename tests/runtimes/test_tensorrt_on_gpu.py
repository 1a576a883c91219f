"""What only TensorRT with a GPU can show: an engine's own layers and what they take."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mpq_export.bundle import Bundle, read_bundle
from mpq_export.errors import RuntimeUnavailable
from mpq_export.lowering.kernel_nodes import is_kernel_node
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import read_lowered
from mpq_export.progress import Silence
from mpq_export.runtimes.cuda.gpu import gpu_here
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt.denoiser import TensorRtDenoiser, open_tensorrt
from mpq_export.runtimes.tensorrt.engine_builds import EngineRequest, build
from mpq_export.runtimes.tensorrt.installed import usual_runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt,
    pytest.mark.skipif(isinstance(gpu_here(), str), reason="there is no GPU"),
]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    try:
        return usual_runtime(gpu_here())
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundle(
    lowered_folder: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder = tmp_path_factory.mktemp("engine") / "bundle"
    made = read_bundle(Path(shutil.copytree(lowered_folder, folder)))
    build(made, EngineRequest(Target.TRT, runtime), Silence(), lambda _: None)
    return made


@pytest.fixture(scope="module")
def denoise(bundle: Bundle, runtime: Runtime) -> TensorRtDenoiser:
    return open_tensorrt(bundle, runtime)


def test_every_packed_layer_is_a_layer_of_the_engine_and_takes_time(
    bundle: Bundle, denoise: TensorRtDenoiser
) -> None:
    sample = np.zeros((2, 2, 8, 8), np.float32)
    labels = np.arange(2)
    profile = denoise.profiled(sample, 500.0, warm_up=2, steps=5, class_labels=labels)
    assert len(profile.ms) == len(profile.step_ms) == 5
    known = {layer.name: layer for layer in profile.layers}
    timed = {node for name in profile.ms[0] for node in known[name].nodes}
    packed = {
        node.name
        for node in read_lowered(bundle.path, Target.TRT).model.graph.node
        if is_kernel_node(node)
    }
    assert packed <= timed
    assert any(layer.kind for layer in profile.layers)
    for step, whole in zip(profile.ms, profile.step_ms, strict=True):
        assert 0 < sum(step.values()) <= whole
