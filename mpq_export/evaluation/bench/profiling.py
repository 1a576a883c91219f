"""``python -m mpq_export.evaluation.bench.profiling JSON``: a row's step by layer, apart.

Rows of ONNX Runtime take the same step with its profiler and without (``profiler_cost``). It names
nodes of the graph as it optimised them; what they were before, and so which module they belong to,
is read from those names: a bundle's nodes are named by their layers, the tracer noted the module of
a baseline's. Engines of TensorRT: ``engine_profiling``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle, read_bundle
from ...cli import console
from ...core.integer_reference import PackedLayer
from ...files import write_json
from ...lowering.nodes import all_nodes, is_mpq
from ...runtimes.graph_feeds import graph_feeds
from ...runtimes.names import ENGINE_RUNTIMES, Runtime
from ...runtimes.native_library import chosen_kernels
from ...runtimes.onnxruntime_denoiser import ONNX_RUNTIMES, make_session, run, runnable_graph
from ...runtimes.selection import select
from ..baselines.graph_files import MODULES
from ..baselines.inputs import draw_inputs
from ..baselines.onnx_denoiser import OnnxDenoiser
from ..profiling.peak import FLOAT32, INT8
from ..profiling.profiles import NodeTime, read_profile, read_time_between
from ..timing.failures import one_line
from ..timing.making import make_apart
from .cost_kinds import is_copy
from .costs import biggest_costs
from .measured_step import MeasuredStep, layer_names, quantized_modules
from .opening import threads_of_process
from .profile import MOST_TAKEN_OFF, LayerCost, OperatorCost, Profile
from .profiler_cost import Run, time_in_turns, without_profiler
from .rows import Row
from .store import read_part

PROFILE = "profile.json"
_WARM_UP_STEPS, _STEPS = 3, 20
"""Of an engine."""


def can_be_profiled(row: Row) -> bool:
    """Whether ONNX Runtime or TensorRT runs it."""
    return row.runtime is None or row.runtime in (*ONNX_RUNTIMES, *ENGINE_RUNTIMES)


def profile_apart(row: Row, bundle: Path, batch: int, processors: Sequence[int], out: Path) -> None:
    """Write ``profile.json`` into a folder; raises CannotBeMade."""
    words = {
        "folder": str(row.folder),
        "runtime": None if row.runtime is None else row.runtime.value,
        "bundle": str(bundle),
        "batch": batch,
        "out": str(out),
    }
    make_apart(__name__, json.dumps(words), processors=processors)


def profile_row(folder: str, runtime: str | None, bundle: str, batch: int) -> Profile:
    """What the process does; ``bundle`` says what the layers are. No peaks are known yet."""
    layers = read_bundle(bundle)
    if runtime is None:
        measured = _measured_baseline(Path(folder), layers, batch)
    elif Runtime(runtime) in ENGINE_RUNTIMES:
        from .engine_profiling import measured_engine

        inputs = _drawn(layers, batch)
        measured = measured_engine(layers, Runtime(runtime), inputs, _WARM_UP_STEPS, _STEPS)
    else:
        measured = _measured_bundle(layers, Runtime(runtime), batch)
    return profile_of(measured, layers)


def profile_of(measured: MeasuredStep, bundle: Bundle) -> Profile:
    """A step by module, operator and biggest costs."""
    nodes = measured.nodes
    run_ms = measured.between + sum(node.ms for node in nodes)
    owned = [(node, measured.owner_of(node.name)) for node in nodes]
    costs = [
        _layer_cost(name, parts, [n for n, module in owned if module == name], run_ms)
        for name, parts in quantized_modules(bundle).items()
    ]
    costs.sort(key=lambda cost: -cost.ms)
    return Profile(
        run_ms=run_ms,
        node_ms=sum(node.ms for node in nodes),
        peaks_macs_per_ns={},
        kernels=measured.kernels,
        layers=costs,
        operators=_operators(nodes, run_ms),
        costs=biggest_costs(owned, costs, run_ms),
        device=measured.device,
        profiled_ms=measured.profiled_ms,
        node_cost_ms=measured.node_cost_ms,
    )


def _drawn(bundle: Bundle, batch: int) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """A sample, a timestep and the conditions of a step."""
    inputs = draw_inputs(bundle.model_config, batch, np.random.default_rng(1))
    sample, timestep, *conditions = inputs.values()
    return sample, float(timestep[0]), dict(zip(list(inputs)[2:], conditions, strict=True))


def _measured_bundle(bundle: Bundle, runtime: Runtime, batch: int) -> MeasuredStep:
    """By ONNX Runtime's profiler."""
    sample, timestep, named = _drawn(bundle, batch)
    feeds = graph_feeds(bundle.model_config, bundle.timesteps, sample, timestep, named)
    graph = runnable_graph(bundle, runtime)
    names = {node.name for node in all_nodes(graph.model.graph.node) if is_mpq(node)}
    plain = make_session(graph)
    with tempfile.TemporaryDirectory() as scratch:
        profiled = make_session(graph, profile=Path(scratch) / "profile")
        steps = (lambda: run(plain, feeds), lambda: run(profiled, feeds))
        native = select(runtime).runs is Runtime.ORT
        kernels = f"ours, {chosen_kernels()}" if native else "ONNX Runtime's own"
        owner_of = layer_names(names | set(bundle.layers), bundle)
        return _measured(*steps, profiled, owner_of, kernels)


def _measured_baseline(folder: Path, bundle: Bundle, batch: int) -> MeasuredStep:
    """By ONNX Runtime's profiler."""
    sample, timestep, named = _drawn(bundle, batch)
    threads = threads_of_process()
    plain = OnnxDenoiser(folder, threads, batch)
    with tempfile.TemporaryDirectory() as scratch:
        profiled = OnnxDenoiser(folder, threads, batch, Path(scratch) / "profile")
        steps = (
            lambda: plain(sample, timestep, **named),
            lambda: profiled(sample, timestep, **named),
        )
        return _measured(*steps, profiled.session, _traced_modules(folder), "ONNX Runtime's own")


def _measured(
    plain: Run, profiled: Run, session: Any, owner_of: Callable[[str], str | None], kernels: str
) -> MeasuredStep:
    """Steps in turns; the nodes of those that ``session`` profiled, without the profiler's cost."""
    turns = time_in_turns(plain, profiled)
    path = Path(session.end_profiling())
    nodes, between = read_profile(path, turns.untimed), read_time_between(path, turns.untimed)
    profiled_ms = between + sum(node.ms for node in nodes)
    found = without_profiler(nodes, turns.plain_ms, profiled_ms)
    return MeasuredStep(
        found.nodes,
        found.between,
        owner_of,
        kernels,
        profiled_ms=profiled_ms,
        node_cost_ms=found.node_cost_ms,
    )


def _traced_modules(folder: Path) -> Callable[[str], str | None]:
    """The module of a baseline's node. Optimisers call a node after it or after its output, and
    append what they did to it."""
    modules = read_part(folder / MODULES)

    def owner_of(node: str) -> str | None:
        own = node
        while own and own not in modules:
            cut = max(own.rfind("_"), own.rfind("/"), 0)
            own = own[:cut]
        return modules.get(own)

    return owner_of


def _layer_cost(
    name: str, parts: Sequence[PackedLayer], nodes: list[NodeTime], run_ms: float
) -> LayerCost:
    work = [node for node in nodes if not is_copy(node.op_type)]
    ms = sum(node.ms for node in nodes)
    main = max(work, key=lambda node: node.ms, default=None)
    kind = "linear" if parts[0].conv is None else "conv"
    columns = sum(part.weight.columns for part in parts)
    sizes = [node.elements for node in work if node.elements]
    macs = max(sizes) * columns if sizes else None
    work_ms = sum(node.ms for node in work)
    taken_off = sum(node.taken_off for node in work)
    profiler_share = taken_off / (work_ms + taken_off) if taken_off else 0.0
    has_rate = macs is not None and work_ms > 0 and profiler_share <= MOST_TAKEN_OFF
    arithmetic, weights = ("", "") if main is None else _arithmetic(main)
    return LayerCost(
        layer=name,
        weight=f"{kind} {parts[0].weight.rows}x{columns}",
        ms=ms,
        share=ms / run_ms,
        operators=sorted({node.op_type for node in nodes}),
        arithmetic=arithmetic,
        weights=weights,
        macs=macs,
        macs_per_ns=macs / (1e6 * work_ms) if has_rate and macs is not None else None,
        of_peak=None,
        copies=sum(is_copy(node.op_type) for node in nodes),
        kernels=sorted({node.kernel for node in work if node.kernel}),
        profiler_share=profiler_share,
    )


def _arithmetic(node: NodeTime) -> tuple[str, str]:
    """The type that a product runs in, and how its weights lie in memory."""
    if node.op_type.startswith("MPQ"):
        return INT8, "packed bit planes"
    if {"int8", "uint8"} & set(node.types):
        return INT8, "expanded to int8"
    kind = "float16" if "float16" in node.types else FLOAT32
    return kind, kind


def _operators(nodes: list[NodeTime], run_ms: float) -> list[OperatorCost]:
    by_type: dict[str, list[float]] = {}
    for node in nodes:
        by_type.setdefault(node.op_type, []).append(node.ms)
    costs = [
        OperatorCost(operator=name, nodes=len(ms), ms=sum(ms), share=sum(ms) / run_ms)
        for name, ms in by_type.items()
    ]
    return sorted(costs, key=lambda cost: -cost.ms)


def main(words: str) -> None:
    """Profile; the last line on stderr says what went wrong."""
    console.quiet_libraries()
    given: Mapping[str, object] = json.loads(words)
    arguments = {name: value for name, value in given.items() if name != "out"}
    try:
        profile = profile_row(**arguments)  # type: ignore[arg-type]
        write_json(Path(str(given["out"])) / PROFILE, profile.model_dump())
    except Exception as error:  # whatever a library raises is this row's result
        traceback.print_exc()
        sys.exit(one_line(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
