"""The bundle: a quantised model on disk, all that passes from quantisation to deployment.

::

    config.json  weights.safetensors  scheduler/scheduler_config.json  manifest.json
    onnx/<target>/model.onnx  onnx/<target>/manifest.json

``config.json`` is diffusers' component config plus ``quantization_config``. The manifest lists
sha256 and size of the other core files. Reading verifies all of it, refuses what is not canonical,
follows no link and no path out of the folder, and never unpickles. ``docs/format.md`` specifies it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .architectures import predicted_channels
from .bundle_config import REBUILD, LayerConfig, QuantizationConfig, quantization_of
from .bundle_features import (
    MAX_MODULE_NAME,
    feature_tensors,
    take_features,
)
from .core.channel_parts import check_parts, parts_by_module
from .core.feature_table import FeatureTable
from .core.integer_reference import (
    PackedLayer,
    check_layer,
    input_channels,
)
from .core.planes import ContractError, PackedMatrix, check
from .errors import BundleError
from .files import (
    MAX_JSON_BYTES,
    Manifest,
    parse_json,
    read_json,
    read_manifest,
    verified_bytes,
    write_json,
    write_manifest,
)
from .precision import BitSpec
from .samplers.options import wrong_type

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
CORE_FILES = (CONFIG, WEIGHTS, SCHEDULER)
LAYER_TENSORS = (
    "planes",
    "plane_rows",
    "steps",
    "scale",
    "row_order",
    "bias",
    "act_scale",
    "act_zero_point",
)
OPTIONAL_LAYER_TENSORS = ("input_factor", "input_shift")
CHANNELS = "channels"
"""The tensor that a layer has which is a part of a module."""
TIMESTEPS, OUTPUT_BIAS = "mpq.timesteps", "mpq.output_bias"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        path: its folder.
        model_config: diffusers' component config, without ``quantization_config``.
        scheduler_config: diffusers' scheduler config.
        quantization: method, bits, layer geometry, what stays in floating point.
        layers: packed layers by module name, in the model's order.
        parameters: float32 tensors of what stays in floating point, by diffusers' names.
        timesteps: int32 ``[T]``, the timesteps of the activation tables.
        output_bias: float32 ``[T]``, or ``[T, C]`` for C channels, added to the prediction.
        features: cached temporal features, of the layers that ``quantization.temporal`` names.
        channels: int32 ``[I]`` of layers that are parts of a module, by name: those they read.
    """

    path: Path
    model_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    quantization: QuantizationConfig
    layers: dict[str, PackedLayer]
    parameters: dict[str, NDArray[np.float32]]
    timesteps: NDArray[np.int32]
    output_bias: NDArray[np.float32]
    features: FeatureTable | None = None
    channels: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    @property
    def bits(self) -> BitSpec:
        """The bits the bundle was asked for."""
        return BitSpec.parse(self.quantization.bits)


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the core files and their manifest into an empty ``folder``.

    Callers that need atomicity write into :func:`mpq_export.files.staged_folder`.
    """
    tensors: dict[str, NDArray[Any]] = {
        TIMESTEPS: bundle.timesteps,
        OUTPUT_BIAS: bundle.output_bias,
        **bundle.parameters,
    }
    if bundle.features is not None:
        tensors |= feature_tensors(bundle.features)
    for name, layer in bundle.layers.items():
        for key, value in _layer_tensors(layer).items():
            tensors[f"{name}.{key}"] = value
    for name, own in bundle.channels.items():
        tensors[f"{name}.{CHANNELS}"] = own
    (folder / "scheduler").mkdir()
    # safetensors writes the memory of an array, whatever its strides.
    plain = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    (folder / WEIGHTS).write_bytes(save(plain, metadata={"format": "mpq"}))
    config = bundle.model_config | {
        "quantization_config": bundle.quantization.model_dump(exclude_none=True)
    }
    write_json(folder / CONFIG, config)
    write_json(folder / SCHEDULER, bundle.scheduler_config)
    write_manifest(folder, CORE_FILES)


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle; raises :class:`BundleError` on anything that is not right."""
    folder = Path(path)
    if not os.path.isdir(folder):  # False too for a path that no file system takes
        raise BundleError("There is no such bundle", where=folder, why="It is not a folder")
    manifest = read_manifest(folder, CORE_FILES, BundleError, REBUILD)
    config = read_json(folder, CONFIG, manifest, BundleError)
    scheduler = read_json(folder, SCHEDULER, manifest, BundleError)
    if fault := wrong_type(scheduler):
        raise BundleError(
            f"The scheduler's '{fault.option}' is of a wrong type",
            where=folder / SCHEDULER,
            why=fault.why,
            fix=REBUILD,
        )
    quantization = quantization_of(config.pop("quantization_config", None), folder / CONFIG)
    tensors = _tensors_of(folder, manifest)
    layers = {}
    channels: dict[str, NDArray[np.int32]] = {}
    for name, layer_config in quantization.layers.items():
        with _refused(folder, f"Layer {name} breaks the format"):
            layers[name] = _take_layer(tensors, name, layer_config)
            own = tensors.pop(f"{name}.{CHANNELS}", None)
            if own is not None:
                channels[name] = own
    with _refused(folder, "The parts of a layer break the format"):
        check_parts(layers, channels)
    timesteps, output_bias = _take_tables(folder, tensors, layers, predicted_channels(config))
    features, removed = None, frozenset[str]()
    if quantization.temporal is not None:
        with _refused(folder, "The table of temporal features breaks the format"):
            features = take_features(tensors, quantization.temporal, len(timesteps))
        removed = frozenset(quantization.temporal.removed)
    if both := sorted(removed & parts_by_module(channels).keys()):
        raise BundleError(
            f"Layer {both[0]} was removed and has parts",
            where=folder / CONFIG,
            why="A table of temporal features stands for it already",
            fix=REBUILD,
        )
    return Bundle(
        folder,
        config,
        scheduler,
        quantization,
        layers,
        _parameters(folder, tensors, layers.keys() | removed),
        timesteps,
        output_bias,
        features,
        channels,
    )


def _layer_tensors(layer: PackedLayer) -> dict[str, NDArray[Any]]:
    weight = layer.weight
    tensors: dict[str, NDArray[Any]] = {
        "planes": weight.planes,
        "plane_rows": weight.plane_rows,
        "steps": weight.steps,
        "scale": weight.scale,
        "row_order": weight.row_order,
        "bias": layer.bias,
        "act_scale": layer.act_scale,
        "act_zero_point": layer.act_zero_point,
    }
    if np.any(layer.input_factor != 1):
        tensors["input_factor"] = layer.input_factor
    if np.any(layer.input_shift != 0):
        tensors["input_shift"] = layer.input_shift
    return tensors


def _take_layer(tensors: dict[str, NDArray[Any]], name: str, config: LayerConfig) -> PackedLayer:
    """Remove one layer's tensors and check that they are canonical."""
    found = {}
    for key in LAYER_TENSORS:
        if f"{name}.{key}" not in tensors:
            raise ContractError(f"tensor {key} is missing")
        found[key] = tensors.pop(f"{name}.{key}")
    weight = PackedMatrix(
        found["planes"],
        found["plane_rows"],
        found["steps"],
        found["scale"],
        found["row_order"],
        config.K,
    )
    check(weight)
    conv = config.geometry()
    # Nothing may grow with the config's numbers alone; rows are bounded by the file.
    if conv is not None and weight.rows % conv.group:
        raise ContractError(f"{weight.rows} rows do not divide into {conv.group} groups")
    channels = input_channels(config.K, conv)
    factor, shift = (tensors.pop(f"{name}.{key}", None) for key in OPTIONAL_LAYER_TENSORS)
    for key, value, default in zip(OPTIONAL_LAYER_TENSORS, (factor, shift), (1, 0), strict=True):
        if value is not None and not np.any(value != default):
            raise ContractError(f"{key} is stored although it is the default")
    layer = PackedLayer(
        weight=weight,
        bias=found["bias"],
        act_scale=found["act_scale"],
        act_zero_point=found["act_zero_point"],
        act_bits=config.act_bits,
        input_factor=np.ones(channels, np.float32) if factor is None else factor,
        input_shift=np.zeros(channels, np.int8) if shift is None else shift,
        conv=conv,
    )
    check_layer(layer)
    return layer


def _take_tables(
    folder: Path,
    tensors: dict[str, NDArray[Any]],
    layers: Mapping[str, PackedLayer],
    channels: int | None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    timesteps, output_bias = tensors.pop(TIMESTEPS, None), tensors.pop(OUTPUT_BIAS, None)
    if (
        timesteps is None
        or timesteps.dtype != np.int32
        or timesteps.ndim != 1
        or not len(timesteps)
    ):
        raise BundleError(
            "The table of timesteps is missing or malformed", where=folder / WEIGHTS, fix=REBUILD
        )
    if (
        output_bias is None
        or output_bias.dtype != np.float32
        or output_bias.shape not in (timesteps.shape, (len(timesteps), channels))
    ):
        raise BundleError(
            "The table of output biases is missing or malformed",
            where=folder / WEIGHTS,
            why="It has a float32 for every timestep, or one for each channel of a prediction",
            fix=REBUILD,
        )
    if not np.all(np.isfinite(output_bias)):
        raise BundleError("An output bias is not finite", where=folder / WEIGHTS, fix=REBUILD)
    for name, layer in layers.items():
        if len(layer.act_scale) != len(timesteps):
            raise BundleError(
                f"Layer {name} has a table of {len(layer.act_scale)} steps, the model one of "
                f"{len(timesteps)}",
                where=folder / WEIGHTS,
                fix=REBUILD,
            )
    return timesteps, output_bias


@contextmanager
def _refused(folder: Path, what: str) -> Iterator[None]:
    """A broken contract as the bundle's error: ``what`` of the weights in ``folder``."""
    try:
        yield
    except ContractError as error:
        raise BundleError(what, where=folder / WEIGHTS, why=str(error), fix=REBUILD) from error


def _parameters(
    folder: Path, tensors: Mapping[str, NDArray[Any]], layers: Set[str]
) -> dict[str, NDArray[np.float32]]:
    for name, value in tensors.items():
        ends = (end for end, char in enumerate(name[: MAX_MODULE_NAME + 1]) if char == ".")
        if any(name[:end] in layers for end in ends):
            raise BundleError(
                f"Tensor {name} stands under a quantised or removed layer's name",
                where=folder / WEIGHTS,
                why="It is none of the layer's tensors",
                fix=REBUILD,
            )
        if value.dtype != np.float32 or not np.all(np.isfinite(value)):
            raise BundleError(
                f"Tensor {name} is {value.dtype} or has values that are not finite",
                where=folder / WEIGHTS,
                why="What is not packed is finite float32",
                fix=REBUILD,
            )
    return dict(tensors)


def _tensors_of(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    data = verified_bytes(folder, WEIGHTS, manifest, BundleError)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(
            "The weights cannot be read", where=folder / WEIGHTS, why=str(error), fix=REBUILD
        ) from error
    header = data[8 : 8 + min(int.from_bytes(data[:8], "little"), MAX_JSON_BYTES)]
    # The library takes the last of two tensors of one name; parse_json refuses that.
    parse_json(header, folder / WEIGHTS, BundleError)
    return tensors
