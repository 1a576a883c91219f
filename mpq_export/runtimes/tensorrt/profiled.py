"""Where an engine's step goes, layer by layer, as TensorRT's own profiler tells it.

A profiled step is launched layer by layer, with an event between any two: it takes longer than one
that is recorded as a CUDA graph.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RuntimeUnavailable
from ..cuda.stream import Stream
from .engine_layers import EngineLayer, layers_of_engine
from .loaded_engine import LoadedEngine
from .steps import BoundStep

_NEEDED = ("profiler", "report_to_profiler", "enqueue_emits_profile")


@dataclass(frozen=True)
class EngineProfile:
    """Some steps of an engine.

    Attributes:
        layers: what the engine says of them, in its order.
        ms: of every step milliseconds by the layers' names, of all that a layer took in it.
        step_ms: of every step, from its launch to its prediction, copies and events included.
        plugin: how packed layers run, in a few words.
    """

    layers: tuple[EngineLayer, ...]
    ms: tuple[Mapping[str, float], ...]
    step_ms: tuple[float, ...]
    plugin: str


def profiled_steps(
    loaded: LoadedEngine,
    bound: BoundStep,
    stream: Stream,
    inputs: Mapping[str, NDArray[np.generic]],
    warm_up: int,
    steps: int,
) -> EngineProfile:
    """Run steps on one input under TensorRT's ``IProfiler``.

    Args:
        loaded: the engine.
        bound: a step of it that has not run.
        stream: that it runs on.
        inputs: by name, of the bound shapes.
        warm_up: steps before, which are not told.
        steps: that are, at least one.

    Raises:
        RuntimeUnavailable: these bindings have no profiler, or TensorRT does not tell.
    """
    context = bound.context
    lacks = [name for name in _NEEDED if not hasattr(context, name)]
    if lacks or not hasattr(loaded.trt, "IProfiler"):
        raise RuntimeUnavailable(
            "This TensorRT does not profile engines from Python",
            why=f"Its bindings lack {', '.join(lacks) or 'IProfiler'}",
        )
    context.profiler = profiler = _profiler(loaded.trt)
    context.enqueue_emits_profile = False  # told when the step is done, not while it is launched
    bound.take(inputs)
    found, step_ms = [], []
    for _ in range(warm_up + steps):
        started = time.perf_counter()
        bound.launch()
        stream.synchronize()
        step_ms.append(1e3 * (time.perf_counter() - started))
        profiler.ms = defaultdict(float)
        if not context.report_to_profiler():
            raise RuntimeUnavailable(
                "TensorRT does not tell what layers took", where=loaded.record.plan
            )
        found.append(dict(profiler.ms))
    layers = layers_of_engine(loaded.trt, loaded.engine, context)
    return EngineProfile(layers, tuple(found[warm_up:]), tuple(step_ms[warm_up:]), loaded.plugin)


def _profiler(trt: Any) -> Any:
    """Adds up what it is told of a step."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            super().__init__()
            self.ms: defaultdict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.ms[layer_name] += ms

    return Profiler()
