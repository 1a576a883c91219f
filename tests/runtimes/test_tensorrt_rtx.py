"""Whole models in TensorRT-RTX, which reads and builds without a GPU. It cannot run them there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import fixtures
import pytest

from mpq_export.lowering.graph import Graph
from mpq_export.lowering.kernel_nodes import is_kernel_node
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import MODEL, read_lowered
from mpq_export.runtimes.tensorrt.flavour import RTX, environment

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT-RTX is not installed"),
]
SHIPPED = Path(__file__).parents[2] / "pipelines"
BUILDING = "mpq_export.runtimes.tensorrt.building"


def run(folder: Path, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(folder), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def built(bundle: Path, folder: Path) -> bytes:
    plan = folder / "plan"
    done = run(folder, ["-m", BUILDING, RTX, bundle / "onnx" / "trt" / MODEL, plan])
    assert done.returncode == 0, done.stderr[-2000:]
    return plan.read_bytes()


def assert_packed_once(plan: bytes, graph: Graph) -> None:
    """The words of all layers, bit for bit and no second time."""
    values = graph.values()
    nodes = [node for node in graph.model.graph.node if is_kernel_node(node)]
    assert nodes
    for node in nodes:
        assert plan.count(values[f"{node.name}.words"].tobytes()) == 1, node.name


def test_a_model_is_read_and_built(lowered_folder: Path, tmp_path: Path) -> None:
    assert_packed_once(built(lowered_folder, tmp_path), read_lowered(lowered_folder, Target.TRT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits_dit", "photos"])
def test_shipped_models_are_read_and_built(name: str, tmp_path: Path) -> None:
    bundle = fixtures.quantized_bundle(
        SHIPPED / name / "checkpoint", tmp_path / "bundle", "rtn", targets=(Target.TRT,)
    )
    assert_packed_once(built(bundle, tmp_path), read_lowered(bundle, Target.TRT))


def test_another_layout_is_refused_with_the_reason(lowered_folder: Path, tmp_path: Path) -> None:
    model = lowered_folder / "onnx" / "trt" / MODEL
    other = tmp_path / MODEL
    other.write_bytes(model.read_bytes().replace(b"mma-1", b"mma-0"))
    done = run(tmp_path, ["-m", BUILDING, RTX, other, tmp_path / "plan"])
    assert done.returncode != 0
    assert "layout 'mma-0'" in done.stderr
    assert not (tmp_path / "plan").exists()
