"""The TensorRT denoiser on a fake driver and a fake TensorRT: everything but the engine is real."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import PLAN, Context, FakeTensorRt, FakeTensorRtRtx

from mpq_export.bundle import Bundle, read_bundle
from mpq_export.errors import BundleError, RuntimeUnavailable
from mpq_export.files import write_json
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import lowered_files
from mpq_export.runtimes.cuda.gpu import Gpu, find_gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.onnxruntime_denoiser import OnnxRuntimeDenoiser
from mpq_export.runtimes.tensorrt import loaded_engine
from mpq_export.runtimes.tensorrt.denoiser import TensorRtDenoiser
from mpq_export.runtimes.tensorrt.engine_files import (
    EngineIdentity,
    EngineRecord,
    build_command,
    fitting_record,
    writing_alone,
)
from mpq_export.runtimes.tensorrt.installed import Installed
from mpq_export.runtimes.tensorrt.loaded_engine import load_with
from mpq_export.runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE

HERE, RTX = Installed(Runtime.TRT, "10.3.0"), Installed(Runtime.TRT_RTX, "1.7.1")


@pytest.fixture(scope="module")
def original(lowered_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "bundle"
    shutil.copytree(lowered_folder, folder)
    return folder


@pytest.fixture(scope="module")
def reference(original: Path) -> OnnxRuntimeDenoiser:
    return OnnxRuntimeDenoiser(read_bundle(original), Runtime.ORT_PORTABLE)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


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


@pytest.fixture
def trt(cuda: FakeCuda, reference: OnnxRuntimeDenoiser) -> FakeTensorRt:
    return FakeTensorRt(cuda, reference.session)


def inputs(bundle: Bundle, images: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((images, 2, 8, 8), dtype=np.float32)
    return sample, {"class_labels": rng.integers(0, 4, images)}


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


def test_a_profile_is_of_every_step_after_the_warm_up(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launched layer by layer, told when it is done, and what a layer took twice is added up."""
    put_engine(folder)
    trt.times = [("conv_in", 1.0), ("conv_in", 0.5), ("added", 0.25)]
    trt.layers = [{"Name": "conv_in", "LayerType": "PluginV3", "Metadata": "[ONNX Layer: conv_in]"}]
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 2)
    profile = denoise.profiled(sample, 7.0, warm_up=2, steps=3, **conditions)
    assert [dict(step) for step in profile.ms] == [{"conv_in": 1.5, "added": 0.25}] * 3
    assert len(profile.step_ms) == 3
    assert min(profile.step_ms) > 0
    assert [layer.name for layer in profile.layers] == ["conv_in"]
    assert profile.plugin in str(denoise.selection)
    (context,) = trt.contexts
    assert (context.ran, cuda.count("graphs")) == (5, 0)
    # Nothing of it stays in the steps that are taken then.
    denoise(sample, 7.0, **conditions)
    assert trt.contexts[-1].profiler is None


def test_a_profile_is_refused_in_words(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder)
    denoise, bundle = opened(folder, cuda, trt, monkeypatch), read_bundle(folder)
    sample, conditions = inputs(bundle, 5)
    with pytest.raises(BundleError, match=r"batch is 5, it takes 1 to 4.*--shapes batch:1..1..5"):
        denoise.profiled(sample, 7.0, warm_up=0, steps=1, **conditions)
    sample, conditions = inputs(bundle, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Context, "report_to_profiler", lambda self: False)
        with pytest.raises(RuntimeUnavailable, match="does not tell what layers took"):
            denoise.profiled(sample, 7.0, warm_up=0, steps=1, **conditions)
    monkeypatch.delattr(Context, "report_to_profiler")
    with pytest.raises(RuntimeUnavailable, match="bindings lack report_to_profiler"):
        denoise.profiled(sample, 7.0, warm_up=0, steps=1, **conditions)


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


def test_the_engine_that_is_advised_is_the_one_taken_then(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as many images at most as the one before, whose name comes first."""
    put_engine(folder, model="A", shapes={"batch": [2, 3, 4]})
    bundle = read_bundle(folder)
    sample, conditions = inputs(bundle, 1)
    with pytest.raises(BundleError) as refusal:
        opened(folder, cuda, trt, monkeypatch)(sample, 7.0, **conditions)
    assert refusal.value.fix == (
        f"Build another: mpq-build {folder} --runtime trt --shapes batch:1..3..4"
    )
    put_engine(folder, shapes={"batch": [1, 3, 4]})
    found = opened(folder, cuda, trt, monkeypatch)(sample, 7.0, **conditions)
    assert found.shape == sample.shape


def test_commands_name_all_that_is_not_usual(tmp_path: Path) -> None:
    shapes = {"batch": [1, 2, 8], "tokens": [77, 77, 77]}
    assert build_command(tmp_path, "trt-int8", "trt-rtx", shapes) == (
        f"mpq-build {tmp_path} --runtime trt-rtx --target trt-int8 --shapes batch:1..2..8,tokens:77"
    )
    with pytest.raises(BundleError, match=r"--runtime trt --target trt-int8\.$"):
        fitting_record(tmp_path, "trt-int8", {}, HERE, "no GPU")


def test_records_that_are_none_leave_the_others(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half written as a killed command leaves them, renamed, or of another version's format."""
    record = put_engine(folder)
    engines = folder / "engine"
    own = engines / f"{record.identity.name}.json"
    (engines / f".{record.identity.name}.a1b2.json").write_text("{")
    (engines / "renamed.json").write_text(own.read_text())
    write_json(engines / "later.json", {**record.model_dump(), "format_version": 3})
    opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == [PLAN]
    own.unlink()
    with pytest.raises(
        BundleError, match=r"later\.json: .*malformed.*; renamed\.json: "
    ) as refusal:
        opened(folder, cuda, trt, monkeypatch)
    assert "a1b2" not in str(refusal.value)


def test_what_killed_builders_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    left = [tmp_path / "engine" / f".unet.a1b2.{suffix}" for suffix in ("plan", "json")]
    kept = tmp_path / "engine" / "unet.json"
    for path in (*left, kept):
        path.touch()
    with writing_alone(tmp_path, lambda _: None) as folder:
        assert [path for path in folder.iterdir() if path.name != ".building.json"] == [kept]
    assert list(folder.iterdir()) == [kept]


def test_a_leftover_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "engine" / ".unet.a1b2.plan").mkdir(parents=True)
    with (
        pytest.raises(BundleError, match=r"left cannot be removed.*a1b2\.plan"),
        writing_alone(tmp_path, lambda _: None),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "Another process builds"), ("{", "Another process builds"),
        ("[]", "Another process builds"), ('{"process": "one"}', "Another process builds"),
        ('{"process": 1, "since": 1e300}', "Another process builds"),
        ('{"process": 17, "since": 0}', "Process 17 builds an engine in"),
        ('{"process": 17, "since": 0, "more": "' + "x" * 5000 + '"}', "Another process builds"),
    ],
)  # fmt: skip
def test_a_second_build_says_whom_it_waits_for(
    tmp_path: Path, content: str | None, said: str
) -> None:
    (tmp_path / "engine").mkdir()
    first = os.open(tmp_path / "engine", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    if content is not None:
        (tmp_path / "engine" / ".building.json").write_text(content)
    told: list[str] = []

    def warn(text: str) -> None:
        told.append(text)
        os.close(first)  # the first build is done

    with writing_alone(tmp_path, warn) as folder:
        own = json.loads((folder / ".building.json").read_text())
        assert own["process"] == os.getpid()
        assert abs(own["since"] - time.time()) < 60
    (text,) = told
    assert text.startswith(said)
    assert text.endswith("This one waits until it is done.")
    assert list(folder.iterdir()) == []


def test_of_two_engines_the_one_by_later_settings_is_taken(folder: Path) -> None:
    kept = [put_engine(folder, settings=settings) for settings in (1, 3, 2)]
    files = lowered_files(folder, Target.TRT)
    gpu = Gpu(0, "RTX", (8, 6), 8)
    assert fitting_record(folder, "trt", files, HERE, gpu) == kept[1]


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plugin": "1.mma-0"}, "packed layers are for plugin 1.mma-0, this is 1.mma-1"),
        ({"tensorrt": "10.7.0"}, "built by version 10.7.0, this is TensorRT 10.3.0"),
        ({"capabilities": ["87"]}, "for compute capability 87, Fake Orin has 86"),
        ({"runtime": "trt-rtx"}, "for --runtime trt-rtx"),
        ({"target": "trt-int8"}, "of the trt-int8 target"),
        ({"model_files": {"model.onnx": "0" * 64}}, "was lowered again since"),
    ],
)
def test_an_engine_of_elsewhere_is_explained_before_it_is_opened(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], words: str,
) -> None:  # fmt: skip
    put_engine(folder, **changes)
    with pytest.raises(BundleError, match=f"{words}.*Run: mpq-build .* --runtime trt"):
        opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == []


def test_the_largest_fitting_engine_is_taken(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder, b"too small", shapes={"batch": [1, 1, 1]})
    put_engine(folder)
    put_engine(folder, b"of another GPU", shapes={"batch": [1, 1, 16]}, capabilities=["80"])
    opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == [PLAN]


def test_a_damaged_plan_is_not_opened(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = put_engine(folder)
    (folder / "engine" / record.plan).write_bytes(PLAN[:-1] + b"!")
    with pytest.raises(BundleError, match=r"not the one that was written"):
        opened(folder, cuda, trt, monkeypatch)
    assert trt.opened == []


def test_tensorrts_own_words_are_passed_on(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(folder, b"what TensorRT does not take")
    with pytest.raises(RuntimeUnavailable, match=r"cannot open.*magic tag does not match"):
        opened(folder, cuda, trt, monkeypatch)


def test_plain_int8_needs_no_plugin(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLUGIN_VARIABLE, raising=False)
    files = lowered_files(folder, Target.TRT_INT8)
    put_engine(folder, target="trt-int8", plugin="", model_files=files)
    bundle = read_bundle(folder)
    gpu = find_gpu(cuda.driver)
    loaded = load_with(trt, HERE, cuda.driver, gpu, bundle, Target.TRT_INT8)
    assert loaded.plugin == "plain INT8"
    assert trt.libraries == []


def test_no_engine_names_the_command(
    folder: Path, cuda: FakeCuda, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match=r"No engine was built. Run: mpq-build .*bundle"):
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
