"""Profiles of an engine on a fake driver and a fake TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_engines import inputs, opened, put_engine
from fake_tensorrt import Context, FakeTensorRt

from mpq_export.bundle import read_bundle
from mpq_export.errors import BundleError, RuntimeUnavailable


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
