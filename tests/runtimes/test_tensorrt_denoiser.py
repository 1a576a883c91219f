"""The TensorRT denoiser on a fake driver and a fake TensorRT: everything but the engine is real."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_engines import inputs, opened, put_engine
from fake_tensorrt import Context, FakeTensorRt, FakeTensorRtRtx

from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError, RuntimeUnavailable
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import OnnxRuntimeDenoiser
from mpq_export.runtimes.tensorrt import loaded_engine


def test_predictions_are_the_engines(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, reference: OnnxRuntimeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Every step, several shapes in turn, and batches that run in parts."""
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    assert trt.libraries == [str(folder / "config.json")]
    for call, images in enumerate((1, 3, 1, 4, 3, 9)):
        sample, conditions = inputs(bundle, images, call)
        timestep = float(bundle.timesteps[call % len(bundle.timesteps)])
        found = denoise(sample, timestep, **conditions)
        parts = [
            reference(
                sample[at : at + 4], timestep, class_labels=conditions["class_labels"][at : at + 4]
            )
            for at in range(0, images, 4)
        ]
        np.testing.assert_array_equal(found, np.concatenate(parts))
    assert "CUDA graphs" in str(denoise.selection)
    assert "10.3.0" in str(denoise.selection)


def test_a_step_allocates_nothing_and_waits_once(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    first = denoise(sample, 500.0, **conditions)
    before = {what: cuda.count(what) for what in ("allocated", "waits", "launches")}
    again = [denoise(sample, 500.0, **conditions) for _ in range(5)]
    assert cuda.count("allocated") == before["allocated"]
    assert cuda.count("waits") == before["waits"] + 5
    assert cuda.count("launches") == before["launches"] + 5
    assert [context.ran for context in trt.contexts] == [2], "once to warm up, once recorded"
    for prediction in again:
        np.testing.assert_array_equal(prediction, first)


def test_sets_of_shapes_are_bounded_and_nothing_leaks(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder)
    monkeypatch.setattr("mpq_export.runtimes.tensorrt.denoiser._MOST_SHAPES", 2)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    for images in (1, 2, 3, 4, 1):
        sample, conditions = inputs(bundle, images)
        denoise(sample, 1.0, **conditions)
    gc.collect()
    tensors = 5  # of a step: on the device and page-locked
    assert cuda.count("live") == 2 * 2 * tensors + 1
    assert cuda.count("graphs") == 2
    del denoise
    gc.collect()
    assert cuda.count("live") == 0
    assert cuda.count("graphs") == 0


def test_without_a_graph_it_runs_and_says_so(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, reference: OnnxRuntimeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put_engine(folder)
    cuda.refuse("cuStreamBeginCapture_v2")
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    found = denoise(sample, 7.0, **conditions)
    np.testing.assert_array_equal(found, reference(sample, 7.0, **conditions))
    assert "no CUDA graph: The NVIDIA driver refused a call (cuStreamBeginCapture_v2)" in str(
        denoise.selection
    )


@pytest.mark.parametrize("function", ["cuGraphLaunch", "cuStreamSynchronize", "cuMemHostAlloc"])
def test_what_the_driver_refuses_is_an_error(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    if function != "cuMemHostAlloc":
        denoise(sample, 7.0, **conditions)
    cuda.refuse(function)
    with pytest.raises(RuntimeUnavailable, match=f"{function}.*the fake driver refuses"):
        denoise(sample, 7.0, **conditions)


def test_sizes_that_the_engine_lacks_are_explained(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder, shapes={"batch": [2, 2, 4]})
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 1)
    with pytest.raises(BundleError, match=r"batch is 1, it takes 2 to 4.*--shapes batch:1..2..4"):
        denoise(sample, 7.0, **conditions)
    sample, conditions = inputs(bundle, 5)  # 4 and 1: the last part begins earlier
    assert denoise(sample, 7.0, **conditions).shape == sample.shape


def test_memory_that_tensorrt_refuses_is_an_error(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    monkeypatch.setattr(Context, "set_tensor_address", lambda self, name, _: name != "prediction")
    sample, conditions = inputs(bundle, 1)
    with pytest.raises(RuntimeUnavailable, match="takes no memory for prediction"):
        denoise(sample, 7.0, **conditions)


def test_a_tensorrt_whose_libraries_are_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def importing(module: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(loaded_engine.importlib, "import_module", importing)
    with pytest.raises(RuntimeUnavailable, match=r"libnvinfer\.so\.10: cannot open"):
        loaded_engine._module(Runtime.TRT)


def test_tensorrts_own_words_are_passed_on(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder, b"what TensorRT does not take")
    with pytest.raises(RuntimeUnavailable, match=r"cannot open.*magic tag does not match"):
        opened(folder, cuda, trt, monkeypatch)


def test_another_thread_gets_the_gpus_context(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, reference: OnnxRuntimeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A server opens an engine once and draws in whatever thread a request comes."""
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(denoise, sample, 7.0, **conditions).result()
    np.testing.assert_array_equal(found, reference(sample, 7.0, **conditions))


@pytest.fixture
def rtx(cuda: FakeCuda, reference: OnnxRuntimeDenoiser, tmp_path: Path, folder: Path,
        monkeypatch: pytest.MonkeyPatch) -> FakeTensorRtRtx:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put_engine(folder, runtime="trt-rtx", tensorrt="1.7.1")
    return FakeTensorRtRtx(cuda, reference.session)


def test_tensorrt_rtx_compiles_before_a_step_is_recorded(
    folder: Path, cuda: FakeCuda, rtx: FakeTensorRtRtx, reference: OnnxRuntimeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A graph would keep the kernels that stand in while others are compiled."""
    denoise, bundle = opened(folder, cuda, rtx, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    for _ in range(2):
        found = denoise(sample, 7.0, **conditions)
        np.testing.assert_array_equal(found, reference(sample, 7.0, **conditions))
    (config,) = rtx.configs
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert "trt-rtx" in str(denoise.selection)
    assert "no CUDA graph" not in str(denoise.selection)
    assert cuda.count("graphs") == 1
    assert rtx.cached == []
    opened(folder, cuda, rtx, monkeypatch)
    assert rtx.cached == [b"compiled"], "what was compiled is kept for the next process"


def test_an_engine_that_cannot_be_captured_runs_and_says_so(
    folder: Path, cuda: FakeCuda, rtx: FakeTensorRtRtx, reference: OnnxRuntimeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rtx.capturable = False
    denoise, bundle = opened(folder, cuda, rtx, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    found = denoise(sample, 7.0, **conditions)
    np.testing.assert_array_equal(found, reference(sample, 7.0, **conditions))
    assert "no CUDA graph: TensorRT says that the engine cannot be captured" in str(
        denoise.selection
    )
    assert cuda.count("graphs") == 0
