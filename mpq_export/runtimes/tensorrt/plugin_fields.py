"""What a plugin knows of its layer without tensors: from an ONNX node's fields or an engine's.

TensorRT hands over attributes as fields, arrays by name, and keeps the fields that a plugin asks it
to keep in the engine. Both are read here, and both are a stranger's: a file may have been changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.integer_reference import ConvGeometry
from ...core.kernel_layout import LAYOUT
from ...core.planes import MAX_COLUMNS, MAX_PLANES
from ...errors import LayerError
from ...lowering.kernel_nodes import COMMON_ATTRIBUTES, CONV_ATTRIBUTES
from ...lowering.nodes import CONV

MULTIPROCESSORS = "multiprocessors"
NODE = "node"
ENGINE_FORMAT = "engine_format"
"""Of what an engine keeps: other fields, another number."""
_THIS_ENGINE_FORMAT = 1
_KEPT_BESIDE = (MULTIPROCESSORS, NODE, ENGINE_FORMAT)
_NOT_HANDED_OVER = ("plugin_version", "plugin_namespace")
"""TensorRT itself looks a plugin up by these."""
_LENGTHS = {"kernel_shape": 2, "strides": 2, "pads": 4, "dilations": 2}


@dataclass(frozen=True)
class PluginLayer:
    """A layer before its tensors are there.

    Attributes:
        name: of the node, for errors.
        act_bits: activation bits.
        top_shift: the largest power of two of an input channel.
        plane_rows: how many rows have each plane; all have the first.
        columns: K.
        conv: the geometry of a convolution; None for a linear layer.
        multiprocessors: for how many the kernels cut their work; outputs do not depend on it.
    """

    name: str
    act_bits: int
    top_shift: int
    plane_rows: tuple[int, ...]
    columns: int
    conv: ConvGeometry | None
    multiprocessors: int

    @property
    def rows(self) -> int:
        """O."""
        return self.plane_rows[0]

    @property
    def channels(self) -> int:
        """I."""
        if self.conv is None:
            return self.columns
        taps = self.conv.kernel_shape[0] * self.conv.kernel_shape[1]
        return self.columns // taps * self.conv.group


def field_names(op_type: str) -> list[str]:
    """The attributes that a plugin wants of a node."""
    names = [*COMMON_ATTRIBUTES, *(CONV_ATTRIBUTES if op_type == CONV else ())]
    return [name for name in names if name not in _NOT_HANDED_OVER]


def read_fields(
    op_type: str, name: str, fields: Mapping[str, NDArray[np.generic]], multiprocessors: int
) -> PluginLayer:
    """The layer that fields describe.

    Args:
        op_type: the plugin's name.
        name: the node's, where no field says it.
        fields: int32 arrays, and texts as characters, with or without a 0 at the end.
        multiprocessors: taken where no field says it, that is, of a node.

    Raises:
        LayerError: a field is missing, unknown, or not what it should be; or the layout, or what
            the engine keeps, is another version's.
    """
    if missing := [key for key in field_names(op_type) if key not in fields]:
        raise _refused(name, f"it has no {', '.join(missing)}")
    known = {*field_names(op_type), *_KEPT_BESIDE, *_NOT_HANDED_OVER}
    if unknown := sorted(fields.keys() - known):
        raise _refused(name, f"it has fields that this version does not know: {unknown}")

    def text(key: str) -> str:
        characters = bytes(np.atleast_1d(fields[key]).astype(np.uint8))
        return characters.partition(b"\0")[0].decode("utf-8", "replace")

    if (layout := text("layout")) != LAYOUT:
        raise _refused(name, f"its weights lie in layout {layout!r}, the kernels read {LAYOUT!r}")

    def numbers(key: str, length: int | None = None) -> tuple[int, ...]:
        values = np.atleast_1d(fields[key])
        if values.dtype.kind != "i" or values.ndim != 1 or length not in (None, len(values)):
            raise _refused(name, f"{key} is {values.dtype} {values.shape}")
        return tuple(int(value) for value in values)

    def number(key: str, least: int, most: int) -> int:
        (value,) = numbers(key, 1)
        if not least <= value <= most:
            raise _refused(name, f"{key} is {value}, not {least} to {most}")
        return value

    if ENGINE_FORMAT in fields:
        number(ENGINE_FORMAT, _THIS_ENGINE_FORMAT, _THIS_ENGINE_FORMAT)
    conv = None
    if op_type == CONV:
        sizes: dict[str, Any] = {key: numbers(key, length) for key, length in _LENGTHS.items()}
        conv = ConvGeometry(**sizes, group=number("group", 1, 2**31 - 1))
    layer = PluginLayer(
        name=text(NODE) if NODE in fields else name,
        act_bits=number("act_bits", 2, 8),
        top_shift=number("top_shift", 0, 6),
        plane_rows=numbers("plane_rows"),
        columns=number("K", 1, MAX_COLUMNS),
        conv=conv,
        multiprocessors=number(MULTIPROCESSORS, 1, 2**16)
        if MULTIPROCESSORS in fields
        else multiprocessors,
    )
    planes = layer.plane_rows
    if not 1 <= len(planes) <= MAX_PLANES or min(planes) < 1 or max(planes) > planes[0]:
        raise _refused(name, f"plane_rows are {planes}")
    return layer


def written_fields(layer: PluginLayer) -> dict[str, NDArray[np.generic]]:
    """What an engine keeps of a layer: :func:`read_fields` makes the same of it."""
    fields: dict[str, NDArray[np.generic]] = {
        ENGINE_FORMAT: _int32(_THIS_ENGINE_FORMAT),
        "act_bits": _int32(layer.act_bits),
        "top_shift": _int32(layer.top_shift),
        "plane_rows": _int32(*layer.plane_rows),
        "K": _int32(layer.columns),
        "layout": _text(LAYOUT),
        MULTIPROCESSORS: _int32(layer.multiprocessors),
        NODE: _text(layer.name),
    }
    if layer.conv is not None:
        fields |= {key: _int32(*getattr(layer.conv, key)) for key in _LENGTHS}
        fields["group"] = _int32(layer.conv.group)
    return fields


def _int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _text(value: str) -> NDArray[np.int8]:
    return np.frombuffer(value.encode() + b"\0", np.int8)


def _refused(name: str, why: str) -> LayerError:
    return LayerError(
        "The TensorRT plugin cannot take this layer",
        where=name,
        why=why,
        fix="Lower the bundle again: mpq-export --ckpt BUNDLE --target trt",
    )
