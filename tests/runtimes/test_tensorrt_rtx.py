"""Whole models in TensorRT-RTX, which reads and builds without a GPU. It cannot run them there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import fixtures
import pytest
from marks import needs_tensorrt_rtx

from mpq_export.bundle import WEIGHTS, read_bundle
from mpq_export.errors import BundleError, RuntimeUnavailable
from mpq_export.evaluation.tensorrt_plans import BITS, SUBJECTS
from mpq_export.files import write_manifest
from mpq_export.lowering.graph import Graph
from mpq_export.lowering.kernel_nodes import is_kernel_node
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import MODEL, read_lowered
from mpq_export.runtimes.names import Runtime
from mpq_export.runtimes.tensorrt import engine_builds
from mpq_export.runtimes.tensorrt.engine_builds import Engine, EngineRequest, build
from mpq_export.runtimes.tensorrt.engine_files import fitting_record, read_record, verified_plan
from mpq_export.runtimes.tensorrt.engine_source import EngineSource, read_source
from mpq_export.runtimes.tensorrt.installed import RTX_CAPABILITIES, installed
from mpq_export.runtimes.tensorrt.profiled import _NEEDED, _profiler

pytestmark = [pytest.mark.tensorrt, needs_tensorrt_rtx]
PLANS = json.loads(
    (Path(__file__).parents[2] / "docs" / "results" / "tensorrt_plans.json").read_text()
)
"""What ``make tensorrt-plans`` measured."""


class Bar(fixtures.SilentProgress):
    """How far it came, and the notes beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[int] = []
        self.notes: list[str] = []

    def advance(self, parts: int = 1) -> None:
        self.parts.append(parts)

    def note(self, text: str) -> None:
        self.notes.append(text)


def built(
    bundle: Path,
    target: Target = Target.TRT,
    bar: Bar | None = None,
    warn: Callable[[str], None] = lambda _: None,
    **choices: object,
) -> Engine:
    request = EngineRequest(target, Runtime.TRT_RTX, **choices)
    return build(read_bundle(bundle), request, bar or Bar(), warn)


def assert_packed_once(plan: bytes, graph: Graph) -> None:
    """The words of all layers, bit for bit and no second time."""
    values = graph.values()
    nodes = [node for node in graph.model.graph.node if is_kernel_node(node)]
    assert nodes
    for node in nodes:
        assert plan.count(values[f"{node.name}.words"].tobytes()) == 1, node.name


def test_a_model_is_read_built_and_found_again(folder: Path) -> None:
    bar = Bar()
    engine = built(folder, bar=bar)
    plan = engine.path.read_bytes()
    assert not engine.found
    graph = read_lowered(folder, Target.TRT)
    assert_packed_once(plan, graph)
    for node in graph.model.graph.node:
        # What a profile finds a layer's module by.
        assert not is_kernel_node(node) or f"[ONNX Layer: {node.name}]".encode() in plan
    assert sum(bar.parts) == engine_builds.PARTS
    assert min(bar.parts) >= 0
    assert bar.notes
    record, version = engine.record, installed(Runtime.TRT_RTX).version
    for word in ("unet2dmodel", "w3a4", "batch1to4", f"trt-rtx{version}", "sm80to121", "mma-1"):
        assert word in engine.path.name
    assert record == read_record(engine.path.with_suffix(".json"))
    assert bytes(verified_plan(folder, record)) == plan
    assert record.peak_mb > 0
    assert {path.suffix for path in engine.path.parent.iterdir()} == {".plan", ".json"}
    found = built(folder, bar=(second := Bar()))
    assert (found.path, found.found, second.tasks) == (engine.path, True, [])
    # What is damaged is built again.
    engine.path.write_bytes(plan[:-1])
    assert not built(folder).found
    here, files = installed(Runtime.TRT_RTX), record.identity.model_files
    with pytest.raises(BundleError, match=r"no GPU here"):
        fitting_record(folder, "trt", files, here, "no GPU here")


def test_the_plain_int8_form_needs_no_plugin(folder: Path) -> None:
    engine = built(folder, Target.TRT_INT8, shapes="batch:2")
    assert engine.record.identity.plugin == ""
    assert engine.record.identity.shapes == {"batch": [2, 2, 2]}
    assert "-trt-int8-batch2-" in engine.path.name
    assert b"MPQ" not in engine.path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("row", PLANS["rows"], ids=itemgetter("model"))
def test_shipped_models_are_read_and_built(row: dict[str, int | str], tmp_path: Path) -> None:
    """Each of ``make tensorrt-plans``, and no larger than that says: an overhead, which is the same
    for every width, and what is packed. Words that were stored in bytes, or twice, would show."""
    subject = next(subject for subject in SUBJECTS if subject.name == row["model"])
    subject.save(tmp_path / "checkpoint")
    bundle = fixtures.quantized_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", "rtn", BITS, (Target.TRT,)
    )
    engine = built(bundle)
    assert_packed_once(engine.path.read_bytes(), read_lowered(bundle, Target.TRT))
    record, packed = engine.record, (bundle / WEIGHTS).stat().st_size
    assert set(record.identity.capabilities) == set(RTX_CAPABILITIES)
    assert record.size == engine.path.stat().st_size
    assert record.size == pytest.approx(packed + row["overhead"], rel=0.1), (
        f"built by {record.identity.tensorrt}; overhead measured with "
        f"{PLANS['machine']['tensorrt-rtx']}: make tensorrt-plans"
    )


def test_the_overhead_hides_no_weights() -> None:
    """Of at least one model the packed weights outweigh it: there a tenth is of weights."""
    assert {row["model"] for row in PLANS["rows"]} == {subject.name for subject in SUBJECTS}
    assert any(row["packed"] > row["overhead"] for row in PLANS["rows"])


def damage(folder: Path, old: bytes, new: bytes) -> None:
    """Change a lowered model as somebody would who repairs its manifest, too."""
    model = folder / "onnx" / "trt" / MODEL
    model.write_bytes(model.read_bytes().replace(old, new))
    write_manifest(model.parent, [MODEL])


def after_reading(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Change a model when it was read, so that TensorRT and the plugin meet what is refused."""

    def read(*given: object) -> EngineSource:
        source = read_source(*given)
        change()
        return source

    monkeypatch.setattr(engine_builds, "read_source", read)


def test_another_layout_is_refused_before_tensorrt_is_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder, b"mma-1", b"mma-0")
    monkeypatch.setattr(engine_builds.subprocess, "Popen", None)
    with pytest.raises(BundleError, match=r"is not what its layer makes of it"):
        built(folder)
    assert not (folder / "engine").exists()


def test_what_the_plugin_refuses_is_said_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_reading(monkeypatch, lambda: damage(folder, b"mma-1", b"mma-0"))
    with pytest.raises(RuntimeUnavailable, match=r"cannot read the model.*layout 'mma-0'"):
        built(folder)
    assert list((folder / "engine").iterdir()) == []


def test_a_workspace_that_cannot_be_sized_is_an_error_with_the_nodes_name(folder: Path) -> None:
    """More than 2 GiB of activations: nothing is built, whether TensorRT says so or dies of it."""
    with pytest.raises(RuntimeUnavailable, match=r"do not take this layer.*conv_in.*2 GiB"):
        built(folder, shapes="batch:1..1000000")
    assert list((folder / "engine").iterdir()) == []


def test_nothing_in_the_current_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle's folder may be a stranger's, and commands are run inside it."""
    for name in ("tensorrt_rtx", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w'); __version__ = 'planted'")
    version = installed.__wrapped__(Runtime.TRT_RTX).version
    monkeypatch.chdir(tmp_path)
    assert installed.__wrapped__(Runtime.TRT_RTX).version == version
    subprocess.run(engine_builds.builder_command(), stdin=subprocess.DEVNULL, capture_output=True)
    assert not (tmp_path / "ran").exists()


def test_a_changed_model_is_refused_before_tensorrt_sees_it(folder: Path) -> None:
    with (folder / "onnx" / "trt" / MODEL).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BundleError, match=r"not the one that was written"):
        built(folder)


def test_what_a_killed_command_left_is_removed(folder: Path) -> None:
    (folder / "engine").mkdir()
    left = folder / "engine" / ".unet2dmodel-w3a4.x1y2.plan"
    left.touch()
    with pytest.raises(RuntimeUnavailable):
        built(folder, memory_limit_mb=64)
    assert not left.exists()


def test_engines_are_not_written_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "engine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        built(folder)


def test_a_builder_beyond_its_limit_is_ended(folder: Path) -> None:
    warned: list[str] = []
    with pytest.raises(RuntimeUnavailable, match=r"more than the limit.*--memory-limit"):
        built(folder, memory_limit_mb=64, warn=warned.append)
    assert ["likely to take" in text for text in warned] == [True]
    assert list((folder / "engine").iterdir()) == []


def test_little_memory_is_warned_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_builds, "available_mb", lambda: 100)
    warned: list[str] = []
    built(folder, warn=warned.append)
    assert len(warned) == 2
    assert "100 MB are free" in warned[0]
    assert "100 MB of memory are left" in warned[1]


def test_a_killed_builder_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system's killer would when memory runs out."""

    class Killed(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(engine_builds.subprocess, "Popen", Killed)
    with pytest.raises(RuntimeUnavailable, match=r"The system killed it.*memory ran out"):
        built(folder)


def test_a_profiler_is_one_of_these_bindings() -> None:
    """What ``profiled`` and ``engine_layers`` use has these names here; a GPU runs it."""
    import tensorrt_rtx as trt

    profiler = _profiler(trt)
    assert isinstance(profiler, trt.IProfiler)
    for _ in range(2):
        profiler.report_layer_time("conv_in", 0.25)
    assert profiler.ms == {"conv_in": 0.5}
    assert all(hasattr(trt.IExecutionContext, name) for name in _NEEDED)
    assert hasattr(trt.ICudaEngine, "create_engine_inspector")
    assert hasattr(trt.EngineInspector, "execution_context")
    assert trt.LayerInformationFormat.JSON != trt.LayerInformationFormat.ONELINE
