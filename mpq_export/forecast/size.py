"""Bytes of a bundle before it exists: the tensors it will store are known from the layer plan.

Only shapes are read, so the model may lie on torch's meta device. Fitting decides whether a layer's
rows are mixed at all: where they stay at N planes each, the layer has one row of ``steps`` less
(``O`` bytes); and a layer may end without the scales that are learned. The forecast counts both,
and is at most that much too high. Votes decide into how many parts a layer falls: these are counted
apart, as what they may add.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from torch import nn

from ..bundle import CHANNELS, OUTPUT_BIAS, TIMESTEPS
from ..bundle_features import FEATURE_TENSORS
from ..core.bit_allocation import Allocation
from ..core.channel_parts import module_of, part_name
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

_HEADER_SPREAD = 64
"""How much longer a part's entry in the header may be where channels fall into parts otherwise:
more digits in seven numbers."""


@dataclass(frozen=True)
class LayerForecast:
    """One quantised layer. ``kind`` is ``linear`` or ``conv``; ``bytes`` are those of its tensors
    in ``weights.safetensors``, tables and bias included, of all ``parts`` of which it is the
    sum."""

    name: str
    kind: str
    weights: int
    bits: BitSpec
    bytes: int
    parts: int = 1


@dataclass(frozen=True)
class PartShape:
    """A part of a layer, or all of it with shifts: how many input channels it reads, whether some
    are shifted, and the words of a row's plane where they are more than its columns need."""

    channels: int
    shifted: bool = False
    words: int = 0


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
        voted_bytes: what votes for the shifts of channels may add to ``weights.safetensors``.
    """

    layers: tuple[LayerForecast, ...]
    floating_bytes: int
    table_bytes: int
    header_bytes: int
    ort_bytes: int
    fp32_bytes: int
    voted_bytes: int = 0

    @property
    def packed_bytes(self) -> int:
        """The size of ``weights.safetensors``, if votes split no layer."""
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
    parts: Mapping[str, Sequence[PartShape]] | None = None,
    bias_channels: int | None = None,
) -> SizeForecast:
    """The sizes that quantising ``model`` by ``plan`` will give.

    Args:
        model: the full-precision model, on any device.
        plan: how its layers are quantised.
        table_rows: T, rows of the activation tables.
        unmixed: layers, or parts by name, known to keep N planes in every row although the plan
            would let them mix.
        cached: None where nothing is.
        parts: of the modules that are sums of several, or have shifts in one.
        bias_channels: C where every channel of the prediction has a bias; None where all share one.
    """
    removed = () if cached is None else cached.removed
    plan = plan.without(removed)
    parts = {name: own for name, own in (parts or {}).items() if name in plan.layers}
    by_layer: dict[str, dict[str, TensorShape]] = {}
    for name, choices in plan.layers.items():
        module, shapes = quantizable(model, name), parts.get(name, ())
        if len(shapes) < 2:
            mixed = name not in unmixed
            shape = shapes[0] if shapes else None
            by_layer[name] = _layer_tensors(module, choices, table_rows, mixed, shape)
            continue
        for place, shape in enumerate(shapes):
            own = part_name(name, place)
            tensors = _layer_tensors(module, choices, table_rows, own not in unmixed, shape)
            by_layer[own] = tensors | {CHANNELS: ("I32", (shape.channels,))}
    prefixes = tuple(f"{name}." for name in (*plan.layers, *removed))
    floating: dict[str, TensorShape] = {
        key: ("F32", tuple(value.shape))
        for key, value in model.state_dict().items()
        if not key.startswith(prefixes)
    }
    by_channel = () if bias_channels is None else (bias_channels,)
    tables: dict[str, TensorShape] = {
        TIMESTEPS: ("I32", (table_rows,)),
        OUTPUT_BIAS: ("F32", (table_rows, *by_channel)),
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
        _layer_forecast(name, quantizable(model, name), choices, by_layer, len(parts.get(name, ())))
        for name, choices in plan.layers.items()
    )
    return SizeForecast(
        layers=layers,
        floating_bytes=_data_bytes(floating),
        table_bytes=_data_bytes(tables),
        header_bytes=header_bytes(everything, {"format": "mpq"}),
        ort_bytes=_ort_bytes(model, by_layer, floating, tables),
        fp32_bytes=4 * sum(parameter.numel() for parameter in model.parameters()),
    )


def with_votes(least: SizeForecast, most: SizeForecast) -> SizeForecast:
    """The forecast of ``least`` parts, told what the votes that lead to ``most`` of them add."""
    extra = sum(layer.parts for layer in most.layers) - sum(layer.parts for layer in least.layers)
    added = most.packed_bytes - least.packed_bytes + _HEADER_SPREAD * extra
    return replace(least, voted_bytes=max(0, added))


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
    module: Quantizable,
    choices: LayerChoices,
    table_rows: int,
    may_mix: bool,
    part: PartShape | None,
) -> dict[str, TensorShape]:
    """Of a layer, or of a part of it."""
    bits = choices.bits.weight
    rows, columns = module.weight.shape[0], module.weight[0].numel()
    channels = input_channels(columns, geometry_of(module))
    words = words_per_row(columns)
    if part is not None:
        columns, channels = columns // channels * part.channels, part.channels
        words = part.words or words_per_row(columns)
    widest = bits + 1 if may_mix and mixes_rows(module, choices) else bits
    tensors: dict[str, TensorShape] = {
        "planes": ("I32", (bits * rows, words)),
        "plane_rows": ("I32", (widest,)),
        "steps": ("I8", (1 + widest, rows)),
        "scale": ("F32", (rows,)),
        "row_order": ("I32", (rows,)),
        "bias": ("F32", (rows,)),
        "act_scale": ("F32", (table_rows,)),
        "act_zero_point": ("I32", (table_rows,)),
    }
    shifted = part is not None and part.shifted
    if choices.smoothing or choices.scaling or shifted:
        tensors["input_factor"] = ("F32", (channels,))
    if shifted:
        tensors["input_shift"] = ("I8", (channels,))
    return tensors


def _layer_forecast(
    name: str,
    module: Quantizable,
    choices: LayerChoices,
    by_layer: Mapping[str, Mapping[str, TensorShape]],
    parts: int,
) -> LayerForecast:
    kind = "linear" if geometry_of(module) is None else "conv"
    own = [part_name(name, place) for place in range(parts)] if parts > 1 else [name]
    size = sum(_data_bytes(by_layer[part]) for part in own)
    return LayerForecast(name, kind, module.weight.numel(), choices.bits, size, len(own))


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
        stored = dict(tensors)
        del stored["plane_rows"]
        module = module_of(name) if CHANNELS in stored else name
        whole = quantizable(model, module)
        _, (channels,) = stored.get(
            CHANNELS, ("I32", (input_channels(whole.weight[0].numel(), geometry_of(whole)),))
        )
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
