"""A step of an engine of TensorRT by layer.

TensorRT's parser names its layers by the model's nodes, and notes them in the layers that it makes
of several; packed nodes have their layers' names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...lowering.kernel_nodes import is_kernel_node
from ...lowering.names import Target
from ...lowering.targets import read_lowered
from ...runtimes.names import Runtime
from ...runtimes.tensorrt.denoiser import open_tensorrt
from ...runtimes.tensorrt.profiled import EngineProfile
from ..profiling.engine_nodes import (
    engine_nodes,
    is_detailed,
    operators_of,
    time_between,
    timed_layers,
)
from .measured_step import MeasuredStep, layer_names
from .profile import GPU


def measured_engine(
    bundle: Bundle,
    runtime: Runtime,
    inputs: tuple[np.ndarray, float, Mapping[str, np.ndarray]],
    warm_up: int,
    steps: int,
    opener: Callable[[Bundle, Runtime], Any] = open_tensorrt,
) -> MeasuredStep:
    """Profile the bundle's engine for this machine.

    Args:
        bundle: lowered to ``trt``, with its engine.
        runtime: ``trt`` or ``trt-rtx``.
        inputs: a sample, its timestep and the conditions.
        warm_up: steps before.
        steps: that are timed.
        opener: of its denoiser.

    Raises as the opener and ``TensorRtDenoiser.profiled``.
    """
    sample, timestep, conditions = inputs
    denoiser = opener(bundle, runtime)
    profile = denoiser.profiled(sample, timestep, warm_up, steps, **conditions)
    return measured_of(profile, bundle, f"TensorRT's; packed layers: {profile.plugin}")


def measured_of(profile: EngineProfile, bundle: Bundle, how: str) -> MeasuredStep:
    """A profile with its layers matched to the bundle's; ``how`` is what ran."""
    model = read_lowered(bundle.path, Target.TRT).model
    packed = {node.name for node in model.graph.node if is_kernel_node(node)}
    owner_of_node = layer_names(packed, bundle)
    owners = {
        layer.name: next(filter(None, map(owner_of_node, layer.nodes)), None)
        for layer in timed_layers(profile)
    }
    if not is_detailed(profile):
        how += (
            "; the engine holds names alone, so types and kernels are not known: build it again, "
            "mpq-build now asks for them"
        )
    return MeasuredStep(
        engine_nodes(profile, operators_of(model)), time_between(profile), owners.get, how, GPU
    )
