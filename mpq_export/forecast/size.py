"""Bytes of a bundle before it exists: the tensors it will store are known from the layer plan.

Only shapes are read, so the model may lie on torch's meta device. The one thing that fitting
decides is whether a layer's rows are mixed at all: where they stay at N planes each, the layer has
one row of ``steps`` less (``O`` bytes); and a layer may end without the scales that are learned.
The forecast counts both, and is at most that much too high.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

from torch import nn

from ..bundle import OUTPUT_BIAS, TIMESTEPS
from ..bundle_features import FEATURE_TENSORS
from ..core.bit_allocation import Allocation
from ..core.integer_reference import input_channels
from ..core.layers import Quantizable, geometry_of
from ..core.planes import words_per_row
from ..methods.plan import LayerChoices, LayerPlan
from ..precision import BitSpec

TensorShape = tuple[str, tuple[int, ...]]
"""A tensor's safetensors type and its shape."""

_BYTES = {"F32": 4, "I32": 4, "I8": 1}
_STORAGE_ORDER = ("F32", "I32", "I8")
"""safetensors stores wide types first, and tensors of one type by name."""
_ONNX_TENSOR_BYTES, _ONNX_NODE_BYTES, _ONNX_MODULE_BYTES = 14, 260, 75
"""What protobuf adds to a tensor beside its name and data, to a packed node beside the names of its
inputs, and the standard operators around one module with parameters; counted in exported UNets."""


@dataclass(frozen=True)
class LayerForecast:
    """One quantised layer. ``kind`` is ``linear`` or ``conv``; ``bytes`` are those of its tensors
    in ``weights.safetensors``, tables and bias included."""

    name: str
    kind: str
    weights: int
    bits: BitSpec
    bytes: int


@dataclass(frozen=True)
class SizeForecast:
    """Bytes by what they are for.

    Attributes:
        layers: the quantised layers, in the model's order.
        floating_bytes: parameters and buffers that stay in floating point.
        table_bytes: the model's own tables, timesteps and output bias.
        header_bytes: the header of ``weights.safetensors``.
        ort_bytes: about the size of the ``ort`` target's model.
        fp32_bytes: all parameters at four bytes.
    """

    layers: tuple[LayerForecast, ...]
    floating_bytes: int
    table_bytes: int
    header_bytes: int
    ort_bytes: int
    fp32_bytes: int

    @property
    def packed_bytes(self) -> int:
        """The size of ``weights.safetensors``."""
        layers = sum(layer.bytes for layer in self.layers)
        return layers + self.floating_bytes + self.table_bytes + self.header_bytes


@dataclass(frozen=True)
class CachedShapes:
    """Temporal features that would be cached: ``channels`` of ``labels``, and the layers that would
    be ``removed``."""

    labels: int
    channels: int
    removed: Collection[str]


def forecast_size(
    model: nn.Module,
    plan: LayerPlan,
    table_rows: int,
    unmixed: Collection[str] = (),
    cached: CachedShapes | None = None,
) -> SizeForecast:
    """The sizes that quantising ``model`` by ``plan`` will give.

    Args:
        model: the full-precision model, on any device.
        plan: how its layers are quantised.
        table_rows: T, rows of the activation tables.
        unmixed: layers known to keep N planes in every row although the plan would let them mix.
        cached: None where nothing is.
    """
    removed = () if cached is None else cached.removed
    plan = plan.without(removed)
    by_layer = {
        name: _layer_tensors(quantizable(model, name), choices, table_rows, name not in unmixed)
        for name, choices in plan.layers.items()
    }
    prefixes = tuple(f"{name}." for name in (*plan.layers, *removed))
    floating: dict[str, TensorShape] = {
        key: ("F32", tuple(value.shape))
        for key, value in model.state_dict().items()
        if not key.startswith(prefixes)
    }
    tables: dict[str, TensorShape] = {
        TIMESTEPS: ("I32", (table_rows,)),
        OUTPUT_BIAS: ("F32", (table_rows,)),
    }
    if cached is not None:
        codes, scale, offset = FEATURE_TENSORS.values()
        tables |= {
            codes: ("I8", (table_rows, cached.labels, cached.channels)),
            scale: ("F32", (cached.channels,)),
            offset: ("F32", (cached.channels,)),
        }
    everything = {**tables, **floating}
    for name, tensors in by_layer.items():
        everything |= {f"{name}.{key}": value for key, value in tensors.items()}
    layers = tuple(
        _layer_forecast(name, quantizable(model, name), plan.layers[name], _data_bytes(tensors))
        for name, tensors in by_layer.items()
    )
    return SizeForecast(
        layers=layers,
        floating_bytes=_data_bytes(floating),
        table_bytes=_data_bytes(tables),
        header_bytes=header_bytes(everything, {"format": "mpq"}),
        ort_bytes=_ort_bytes(model, by_layer, floating, tables),
        fp32_bytes=4 * sum(parameter.numel() for parameter in model.parameters()),
    )


def header_bytes(tensors: Mapping[str, TensorShape], metadata: Mapping[str, str]) -> int:
    """Bytes that a safetensors file of F32, I32 and I8 tensors has before its data."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    order = sorted(tensors, key=lambda name: (_STORAGE_ORDER.index(tensors[name][0]), name))
    for name in order:
        kind, shape = tensors[name]
        end = start + _BYTES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8


def quantizable(model: nn.Module, name: str) -> Quantizable:
    """The layer of that name."""
    return cast(Quantizable, model.get_submodule(name))


def mixes_rows(module: Quantizable, choices: LayerChoices) -> bool:
    """Whether rows of the layer may have N - 1, N and N + 1 planes."""
    conv = geometry_of(module)
    return (
        choices.allocation is not Allocation.EQUAL
        and choices.bits.weight < 8
        and module.weight.shape[0] > 1
        and (conv is None or conv.group == 1)
    )


def _layer_tensors(
    module: Quantizable, choices: LayerChoices, table_rows: int, may_mix: bool
) -> dict[str, TensorShape]:
    bits = choices.bits.weight
    rows, columns = module.weight.shape[0], module.weight[0].numel()
    widest = bits + 1 if may_mix and mixes_rows(module, choices) else bits
    tensors: dict[str, TensorShape] = {
        "planes": ("I32", (bits * rows, words_per_row(columns))),
        "plane_rows": ("I32", (widest,)),
        "steps": ("I8", (1 + widest, rows)),
        "scale": ("F32", (rows,)),
        "row_order": ("I32", (rows,)),
        "bias": ("F32", (rows,)),
        "act_scale": ("F32", (table_rows,)),
        "act_zero_point": ("I32", (table_rows,)),
    }
    if choices.smoothing or choices.scaling:
        tensors["input_factor"] = ("F32", (input_channels(columns, geometry_of(module)),))
    return tensors


def _layer_forecast(
    name: str, module: Quantizable, choices: LayerChoices, size: int
) -> LayerForecast:
    kind = "linear" if geometry_of(module) is None else "conv"
    return LayerForecast(name, kind, module.weight.numel(), choices.bits, size)


def _data_bytes(tensors: Mapping[str, TensorShape]) -> int:
    return sum(_BYTES[kind] * math.prod(shape) for kind, shape in tensors.values())


def _ort_bytes(
    model: nn.Module,
    by_layer: Mapping[str, Mapping[str, TensorShape]],
    floating: Mapping[str, TensorShape],
    tables: Mapping[str, TensorShape],
) -> int:
    """Data, and about what protobuf, the nodes and the function bodies add to it."""
    total = _function_body_bytes() + _data_bytes(floating) + _data_bytes(tables)
    total += sum(len(name) + _ONNX_TENSOR_BYTES for name in (*floating, *tables))
    for name, tensors in by_layer.items():
        module = quantizable(model, name)
        channels = input_channels(module.weight[0].numel(), geometry_of(module))
        stored = dict(tensors)
        del stored["plane_rows"]
        # A node always has both, whatever the bundle stores.
        stored |= {"input_factor": ("F32", (channels,)), "input_shift": ("I8", (channels,))}
        total += _data_bytes(stored) + _ONNX_NODE_BYTES
        # Every tensor's name is written twice: where it is stored and where it is read.
        total += sum(2 * len(f"{name}.{key}") + _ONNX_TENSOR_BYTES for key in stored)
    modules = sum(1 for m in model.modules() if any(True for _ in m.parameters(recurse=False)))
    return total + modules * _ONNX_MODULE_BYTES


@cache
def _function_body_bytes() -> int:
    from ..lowering.operators import all_bodies

    return sum(body.ByteSize() for body in all_bodies())
