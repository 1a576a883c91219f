"""Per-node fidelity: every quantised node of a running graph against the numpy reference.

A whole quantised network is chaotic: a change of 1e-6 at the input flips roundings and moves the
output by percents. A node is not: fed identical inputs it must give the reference's output, equal
to the last bit. So the graph's own activations are read out while it runs (through Polygraphy's
ONNX Runtime runner), and each node's output is compared with the reference computed from that
node's recorded inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..bundle import Bundle
from ..core.integer_reference import PackedLayer
from ..errors import BundleError, missing_package
from ..lowering.graph import Graph
from ..lowering.graph_inputs import STEP_INDEX
from ..lowering.half_precision import is_half
from ..lowering.nodes import is_mpq, residual_of
from ..lowering.portable import layer_input
from ..runtimes.names import Runtime
from ..runtimes.onnxruntime_denoiser import make_session, runnable_graph
from .layer_fidelity import LayerFunction, LayerUse, NodeResult, compare_layer

Feeds = Mapping[str, np.ndarray]
_NODES_PER_RUN = 64
"""Nodes read out of one session: bounds the memory of recorded activations."""


@dataclass(frozen=True)
class _Tap:
    """Tensors of the running graph at which a layer's inputs and output are read."""

    layer: str
    x: str
    y: str
    residual: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.x, self.y) if self.residual is None else (self.x, self.y, self.residual)


def compare_nodes(
    bundle: Bundle,
    runtime: Runtime,
    feeds: Sequence[Feeds],
    full_precision: Mapping[str, LayerFunction] | None = None,
) -> Iterator[NodeResult]:
    """Run the graph on every feed and compare node by node, in the graph's order.

    Args:
        bundle: a bundle lowered to the runtime's target.
        runtime: one of the ONNX Runtime ways to run it.
        feeds: graph inputs, one entry per denoising step to try.
        full_precision: the original layers by name, to measure quantisation noise.
    """
    graph = runnable_graph(bundle, runtime)
    if runtime is Runtime.ORT_FUNCTIONS and is_half(graph):
        raise BundleError(
            "Function bodies of a float16 graph cannot be checked node by node",
            where=bundle.path,
            why="ONNX Runtime's CPU skips the rounding to float16 between its operators",
            fix="Check with --runtime ort, or lower again without --float16",
        )
    taps = [_tap(graph.model, name) for name in bundle.layers]
    for start in range(0, len(taps), _NODES_PER_RUN):
        part = taps[start : start + _NODES_PER_RUN]
        recorded = _record(graph, part, feeds)
        for tap in part:
            original = (full_precision or {}).get(tap.layer)
            yield _compare(tap, bundle.layers[tap.layer], feeds, recorded, original)


def _tap(model: onnx.ModelProto, layer: str) -> _Tap:
    last = next((node for node in model.graph.node if node.name == layer), None)
    x = residual = None
    if last is not None and is_mpq(last):
        x, residual = last.input[0], residual_of(last)
    elif last is not None:
        x = layer_input(model, layer)
    if last is None or x is None:
        raise BundleError(
            f"The lowered model has no node for layer {layer}",
            why="It was not lowered from this bundle",
            fix="Lower the bundle again",
        )
    return _Tap(layer, x, last.output[0], residual)


def _record(
    graph: Graph, taps: Sequence[_Tap], feeds: Sequence[Feeds]
) -> list[Mapping[str, np.ndarray]]:
    """All tapped tensors, one entry per feed."""
    try:
        from polygraphy.backend.onnxrt import OnnxrtRunner
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise missing_package("polygraphy", "check", "Checking nodes") from error
    G_LOGGER.module_severity = G_LOGGER.ERROR
    names = dict.fromkeys(name for tap in taps for name in tap.names)
    known = {value.name for value in (*graph.model.graph.output, *graph.model.graph.input)}
    probed = onnx.ModelProto()
    probed.CopyFrom(graph.model)
    probed.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in names if name not in known
    )
    with OnnxrtRunner(make_session(Graph(probed, graph.tensors))) as runner:
        results: list[Mapping[str, np.ndarray]] = []
        for feed in feeds:
            outputs = dict(runner.infer(dict(feed)))
            results.append(
                {name: outputs[name] if name in outputs else feed[name] for name in names}
            )
    return results


def _compare(
    tap: _Tap,
    layer: PackedLayer,
    feeds: Sequence[Feeds],
    recorded: Sequence[Mapping[str, np.ndarray]],
    original: LayerFunction | None,
) -> NodeResult:
    uses = [
        LayerUse(
            tensors[tap.x],
            tensors[tap.y],
            int(feed[STEP_INDEX][0]),
            None if tap.residual is None else tensors[tap.residual],
        )
        for feed, tensors in zip(feeds, recorded, strict=True)
    ]
    return compare_layer(tap.layer, layer, uses, original)
