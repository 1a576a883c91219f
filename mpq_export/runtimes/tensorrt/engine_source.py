"""What an engine is built of: a lowered model that was read and held against its bundle.

TensorRT reads the file for itself. So everything that it would meet there is looked at before, for
a bundle may be a stranger's, or its parts another one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...architectures import architecture_of
from ...bundle import Bundle
from ...conditions import BATCH
from ...core.planes import ContractError
from ...errors import BundleError
from ...lowering.engine_graphs import (
    TensorType,
    constant_bytes,
    require_layers,
    require_signature,
    require_sizes,
)
from ...lowering.graph_inputs import PREDICTION, SAMPLE, STEP_INDEX, TIMESTEP
from ...lowering.names import Target
from ...lowering.shapes import Dims
from ...lowering.targets import MODEL, lowered_files, read_lowered
from .shapes import Profile, Ranges, default_ranges, parse_shapes, profile


@dataclass(frozen=True)
class EngineSource:
    """A lowered model as TensorRT may be given it.

    Attributes:
        model: the path of its ``model.onnx``.
        files: sha256 of its files, by name.
        ranges: of its free axes.
        profile: the same by input.
        size: of its files, bytes.
        constants: bytes of its weights and tables.
    """

    model: Path
    files: Mapping[str, str]
    ranges: Ranges
    profile: Profile
    size: int
    constants: int


def read_source(bundle: Bundle, target: Target, shapes: str = "") -> EngineSource:
    """Read a bundle's lowered model, and what an engine of it is to take.

    Args:
        bundle: lowered to the target.
        target: ``trt`` or ``trt-int8``.
        shapes: as on the command line; empty for the defaults.

    Raises:
        BundleError: the model is missing, changed, of another bundle, or has what no bundle needs.
        UserError: the shapes are none.
    """
    inputs = _inputs(bundle)
    dims = {name: own for name, (own, _) in inputs.items()}
    conditions = architecture_of(bundle.model_config).conditions(bundle.model_config)
    ranges = parse_shapes(shapes, dims, default_ranges(dims, conditions))
    model = bundle.path / "onnx" / target.value / MODEL
    files = lowered_files(bundle.path, target)
    graph = read_lowered(bundle.path, target)
    try:
        require_signature(graph.model, inputs, _outputs(bundle, graph.model))
        require_layers(graph, bundle.layers, target, bundle.features)
        require_sizes(graph, {name: own.largest for name, own in ranges.items()})
    except ContractError as error:
        raise BundleError(
            "TensorRT is not given the lowered model",
            where=model,
            why=str(error),
            fix=f"Lower it again: mpq-export --ckpt {bundle.path} --target {target.value}",
        ) from error
    return EngineSource(
        model=model,
        files=files,
        ranges=ranges,
        profile=profile(dims, ranges),
        size=sum((model.parent / name).stat().st_size for name in files),
        constants=constant_bytes(graph),
    )


def _outputs(bundle: Bundle, model: onnx.ModelProto) -> dict[str, TensorType]:
    """What it gives: models that learn their variance have channels for it."""
    config = bundle.model_config
    _, *size = architecture_of(config).sample_shape(config)
    channels = config.get("out_channels")
    if channels is None:  # diffusers' default for the class, which the exporter has traced
        said = [v.type.tensor_type.shape.dim[1:2] for v in model.graph.output[:1]]
        channels = max([1, *(dim.dim_value for dims in said for dim in dims)])
    return {PREDICTION: ((BATCH, channels, *size), TensorProto.FLOAT)}


def _inputs(bundle: Bundle) -> dict[str, TensorType]:
    """What the graph of a bundle's model takes, as the exporter traces it."""
    architecture = architecture_of(bundle.model_config)
    types: dict[str, tuple[Dims, type[np.generic]]] = {
        SAMPLE: ((BATCH, *architecture.sample_shape(bundle.model_config)), np.float32),
        TIMESTEP: ((1,), np.float32),
        STEP_INDEX: ((1,), np.int32),
    }
    for spec in architecture.conditions(bundle.model_config):
        shape: Dims = (BATCH, *spec.shape)
        named = {axis: spec.free_axes.get(axis, size) for axis, size in enumerate(shape)}
        types[spec.name] = (tuple(named.values()), spec.dtype)
    return {
        name: (dims, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        for name, (dims, dtype) in types.items()
    }
