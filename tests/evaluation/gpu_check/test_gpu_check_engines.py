"""TensorRT's engines in ``make gpu-check``: built, compared, refused, out of time."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marks import needs_tensorrt_rtx

from mpq_export import export as exporting
from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.gpu_check import __main__ as command
from mpq_export.evaluation.gpu_check import engines, place, random_models
from mpq_export.evaluation.gpu_check.report import markdown, passed
from mpq_export.lowering.exporter import export_graph
from mpq_export.lowering.names import Target
from mpq_export.progress import Silence
from mpq_export.runtimes.cuda.gpu import Gpu
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import engine_builds
from mpq_export.runtimes.tensorrt.engine_builds import EngineRequest
from mpq_export.runtimes.tensorrt.installed import Installed

NEVER = float("inf")
"""A deadline."""


def test_without_tensorrt_engines_are_said_to_be_skipped(emulated, monkeypatch):
    def none(_):
        raise RuntimeUnavailable("No engine can be built here", why="trt: It is not installed")

    monkeypatch.setattr(engines, "usual_runtime", none)
    here = replace(place.emulated_place(), emulated=False)
    part = command._engines(here, NEVER)
    assert part == {"skipped": "No engine can be built here. trt: It is not installed"}
    result = {**emulated[0], "engines": part}
    assert passed(result)
    assert "Not run: No engine can be built here. trt: It is not installed." in markdown(result)


@pytest.fixture(scope="module")
def graphs():
    """Graphs of the networks of this file, by what is in their bundles."""
    return {}


@pytest.fixture
def traced_once(graphs, monkeypatch):
    """Tracing is most of a lowering, and a graph depends on its bundle alone; the whole check
    traces every one."""

    def graph(bundle):
        digest = hashlib.sha256()
        weights = {name: layer.weight.planes for name, layer in bundle.layers.items()}
        for name, value in (weights | dict(bundle.parameters)).items():
            digest.update(name.encode() + value.tobytes())
        if digest.digest() not in graphs:
            graphs[digest.digest()] = export_graph(bundle)
        return copy.deepcopy(graphs[digest.digest()])

    monkeypatch.setattr(exporting, "export_graph", graph)


@pytest.fixture
def tensorrt(monkeypatch, traced_once):
    """TensorRT's engines where they are asked for: what was built, and run by ONNX Runtime."""
    asked = []

    def build(bundle, request, progress, _warn):
        progress.note("timing")
        progress.advance(1)
        asked.append((request.target, request.runtime, request.shapes, len(bundle.layers)))
        record = SimpleNamespace(size=3_000_000, seconds=2.5)
        return SimpleNamespace(record=record)

    def opened(bundle, runtime, target):
        assert runtime is Runtime.TRT
        step = engines.EmulatedEngines().open(bundle, target, 1).predict
        return lambda **inputs: step(inputs)

    monkeypatch.setattr(engines, "gpu_here", lambda: Gpu(0, "Orin", (8, 7), 8))
    monkeypatch.setattr(engines, "usual_runtime", lambda _: Runtime.TRT)
    monkeypatch.setattr(engines, "installed", lambda runtime: Installed(runtime, "10.3.0"))
    monkeypatch.setattr(engines, "build", build)
    monkeypatch.setattr(engines, "open_tensorrt", opened)
    monkeypatch.setattr(engines.TensorRtEngines, "packed", Target.ONNX)  # what can be run here
    return asked


def test_three_engines_are_built_and_compared(tensorrt, emulated):
    networks = (replace(random_models.EMULATED_NETWORKS[0], batch=2),)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), networks, 2, NEVER, command.Lines()
    )
    (row,) = part["rows"]
    assert part["tensorrt"] == "TensorRT 10.3.0"
    assert [asked[:3] for asked in tensorrt] == [
        (Target.ONNX, Runtime.TRT, "batch:2"),
        (Target.TRT_INT8, Runtime.TRT, "batch:2"),
        (Target.TRT_INT8, Runtime.TRT, "batch:2"),
    ]
    assert [asked[3] > 40 for asked in tensorrt] == [True, True, False]
    assert tensorrt[-1][3] == 0, "float16 has no packed layers"
    for engine in row["engines"].values():
        assert (engine["plan_mb"], engine["build_seconds"]) == (3, 2.5)
        assert len(engine["relative_errors"]) == 2, "one for every image"
    assert row["over"]["packed"] == 1
    assert "TensorRT 10.3.0, w3a8" in markdown({**emulated[0], "engines": part})


def test_an_engine_that_fails_leaves_the_others(tensorrt, monkeypatch, emulated):
    build = engines.build

    def refuse(bundle, request, *others):
        if request.target is Target.TRT_INT8:
            raise RuntimeUnavailable("TensorRT cannot build the model")
        return build(bundle, request, *others)

    monkeypatch.setattr(engines, "build", refuse)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), random_models.EMULATED_NETWORKS,
        1, NEVER, command.Lines(),
    )  # fmt: skip
    (row,) = part["rows"]
    assert row["engines"]["packed"]["ms"]["median"] > 0
    assert "cannot build" in row["engines"]["float16"]["failure"]
    result = {**emulated[0], "engines": part}
    assert "- tiny UNet, plain INT8: TensorRT cannot build" in markdown(result)
    assert not passed(result), "plain INT8 is ours"


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_engine_whose_images_are_not_finite_has_failed(bad):
    reference = np.ones((3, 1, 2, 2), np.float32)
    found = reference.copy()
    assert engines._errors(found, reference) == {"relative_errors": [0, 0, 0]}
    found[1, 0, 0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"images \[1\] of 3 are not finite"):
        engines._errors(found, reference)


def test_a_failed_engine_is_written_as_json(tensorrt, monkeypatch):
    """Not as a number that JSON does not have."""
    ones = np.ones((1, 3, 8, 8))
    monkeypatch.setattr(engines, "open_tensorrt", lambda *_: lambda **_: ones * np.inf)
    monkeypatch.setattr(engines, "_packed_prediction", lambda *_: ones)
    monkeypatch.setattr(engines, "_whole_prediction", lambda *_: ones)
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(NEVER), random_models.EMULATED_NETWORKS,
        1, NEVER, command.Lines(),
    )  # fmt: skip
    json.dumps(part, allow_nan=False)
    (row,) = part["rows"]
    assert all("not finite" in one["failure"] for one in row["engines"].values())
    assert not passed({"engines": part})


def test_builds_end_at_the_deadline(tensorrt):
    part = engines.measure_engines(
        place.emulated_place(), engines.TensorRtEngines(0.0), random_models.EMULATED_NETWORKS, 1,
        NEVER, command.Lines(),
    )  # fmt: skip
    (row,) = part["rows"]
    assert [one["skipped"] for one in row["engines"].values()] == ["no time was left"] * 3
    assert tensorrt == []


@pytest.mark.slow
@pytest.mark.tensorrt
@needs_tensorrt_rtx
@pytest.mark.parametrize("target", [Target.TRT, Target.TRT_INT8, None])
def test_tensorrt_rtx_builds_all_three(target, traced_once, tmp_path):
    """None is full precision; none of them can be run here."""
    torch.manual_seed(0)
    network = random_models.EMULATED_NETWORKS[0]
    model = random_models.random_model(network.config)
    bundle = random_models.rounded_bundle(model, network.config)
    if target is None:
        bundle, target = engines._unquantised(model, bundle), Target.TRT_INT8
    bundle = replace(bundle, path=tmp_path)
    engines.export_bundle(bundle, (target,), None, Silence(), float16=True)
    request = EngineRequest(target, Runtime.TRT_RTX, "batch:1")
    record = engine_builds.build(bundle, request, Silence(), lambda _: None).record
    assert record.size > 0
