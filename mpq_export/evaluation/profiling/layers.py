"""The packed layers of a bundle one by one, and what is left of a step outside of them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...bundle import Bundle, read_bundle
from ...lowering.names import Target
from ...lowering.nodes import all_nodes, is_mpq
from ...lowering.targets import read_lowered
from ...runtimes.graph_feeds import graph_feeds
from ...runtimes.names import Runtime
from ...runtimes.onnxruntime_denoiser import make_session, run, runnable_graph
from ..baselines.inputs import draw_inputs
from .peak import INT8, measured_peaks
from .profiles import NodeTime, read_profile

_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class LayerTime:
    """One packed layer.

    Attributes:
        kind: ``conv`` or ``linear``, with rows and columns of its weight.
        ms: per step, all nodes that it became.
        macs: multiply-accumulates per step; None if the profile does not tell its output's shape.
    """

    name: str
    kind: str
    ms: float
    macs: int | None

    @property
    def macs_per_ns(self) -> float | None:
        """Achieved rate."""
        return None if self.macs is None or not self.ms else self.macs / (1e6 * self.ms)


@dataclass(frozen=True)
class Profile:
    """A step: its layers, and all nodes, and those that came of none of the domain ``mpq``."""

    layers: tuple[LayerTime, ...]
    nodes: tuple[NodeTime, ...]
    outside: tuple[NodeTime, ...]


def profile_bundle(folder: Path, batch: int, steps: int) -> Profile:
    """Run ``steps`` steps of a bundle under ONNX Runtime's profiler, in this process."""
    bundle = read_bundle(folder)
    inputs = draw_inputs(bundle.model_config, batch, np.random.default_rng(1))
    sample, timestep, *conditions = inputs.values()
    named = dict(zip(list(inputs)[2:], conditions, strict=True))
    feeds = graph_feeds(bundle.model_config, bundle.timesteps, sample, float(timestep[0]), named)
    with tempfile.TemporaryDirectory() as scratch:
        session = make_session(
            runnable_graph(bundle, Runtime.ORT), profile=Path(scratch) / "profile"
        )
        for _ in range(_WARM_UP_STEPS + steps):
            run(session, feeds)
        nodes = read_profile(Path(session.end_profiling()), skip=range(_WARM_UP_STEPS))
    lowered = read_lowered(folder, Target.ORT).model.graph.node
    return assigned(bundle, {node.name for node in all_nodes(lowered) if is_mpq(node)}, nodes)


def assigned(bundle: Bundle, own_nodes: Collection[str], nodes: Sequence[NodeTime]) -> Profile:
    """Give every node to the one of ``own_nodes``, and to the layer, that it was made of.

    A node of the lowered file keeps its name, or becomes several whose names go on with a slash.
    """
    owners = {node.name: node.name.partition("/")[0] for node in nodes}
    layers = []
    for name, layer in bundle.layers.items():
        own = [node for node in nodes if owners[node.name] == name]
        rows, columns = layer.weight.rows, layer.weight.columns
        elements = next((node.elements for node in own if node.name == name), None)
        layers.append(
            LayerTime(
                name,
                f"{'linear' if layer.conv is None else 'conv'} {rows}x{columns}",
                sum(node.ms for node in own),
                None if elements is None else elements * columns,
            )
        )
    outside = tuple(node for node in nodes if owners[node.name] not in own_nodes)
    return Profile(tuple(layers), tuple(nodes), outside)


def layer_table(title: str, profile: Profile, threads: int) -> str:
    """Markdown, slowest layer first."""
    peak = measured_peaks(threads).get(INT8)
    said = "not measured" if peak is None else f"{peak:.0f} MAC/ns"
    lines = [
        f"## {title}, layer by layer",
        "",
        f"Peak of the processor's int8 products on {threads} threads: {said}.",
        "",
        "| layer | weight | ms | million MAC | MAC/ns | of peak |",
        "|---|---|---|---|---|---|",
        *(
            _line(layer, peak)
            for layer in sorted(profile.layers, key=lambda layer: layer.ms, reverse=True)
        ),
        "",
    ]
    return "\n".join(lines)


def _line(layer: LayerTime, peak: float | None) -> str:
    rate = layer.macs_per_ns
    macs = "" if layer.macs is None else f"{layer.macs / 1e6:.1f}"
    share = "" if rate is None or peak is None else f"{rate / peak:.0%}"
    achieved = "" if rate is None else f"{rate:.1f}"
    return f"| {layer.name} | {layer.kind} | {layer.ms:.3f} | {macs} | {achieved} | {share} |"


def operator_table(title: str, profile: Profile) -> str:
    """Markdown: all nodes by operator type, and how much of it lies outside our nodes."""
    total, outside = _total(profile.nodes), _total(profile.outside)
    lines = [
        f"## {title}, operator by operator",
        "",
        f"{total:.2f} ms in nodes, {outside:.2f} ms ({outside / total:.0%}) of them outside our "
        "nodes. The profiler's own cost is in all figures.",
        "",
        "| operator | nodes | ms | share | ms outside our nodes |",
        "|---|---|---|---|---|",
    ]
    types = {node.op_type for node in profile.nodes}
    for op_type in sorted(types, key=lambda op: -_total(_of(op, profile.nodes))):
        nodes = _of(op_type, profile.nodes)
        ms = _total(nodes)
        lines.append(
            f"| {op_type} | {len(nodes)} | {ms:.3f} | {ms / total:.1%} "
            f"| {_total(_of(op_type, profile.outside)):.3f} |"
        )
    return "\n".join([*lines, ""])


def _of(op_type: str, nodes: Iterable[NodeTime]) -> list[NodeTime]:
    return [node for node in nodes if node.op_type == op_type]


def _total(nodes: Iterable[NodeTime]) -> float:
    return sum(node.ms for node in nodes)
