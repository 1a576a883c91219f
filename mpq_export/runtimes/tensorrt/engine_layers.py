"""The layers of an engine, as its inspector describes them.

What a layer was in the model stands in its metadata, where TensorRT's parser notes the node; one
that TensorRT made of several has several. Engines hold types, sizes and kernels when they were
built to (``ProfilingVerbosity.DETAILED``, as ``mpq-build`` does), and otherwise names alone. What
the fields hold is in no specification: whatever is missing or otherwise is left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from typing import Any

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_COPY = re.compile(r"^Reformatting CopyNode for .*? to (.+)$")
_FUSED = " + "
_COMPILED = re.compile(r"^__my[el]+_([A-Za-z]+)")
_WORDS = re.compile(r"[A-Z][a-z]*")
_MOVING = frozenset({"Move", "Tran", "Resh", "Cast", "Copy"})
"""What TensorRT's compiler calls kernels that move or convert."""
REFORMAT = "Reformat"
_TYPES = {
    "float32": ("fp32", "float"), "float16": ("fp16", "half"), "bfloat16": ("bf16", "bfloat16"),
    "int8": ("int8",), "int4": ("int4",), "float8": ("fp8", "float8"), "int32": ("int32",),
    "int64": ("int64",), "bool": ("bool",),
}  # fmt: skip
_WORD_OF_TYPE = {word: name for name, words in _TYPES.items() for word in words}


@dataclass(frozen=True)
class EngineLayer:
    """A layer.

    Attributes:
        name: as the profiler has it.
        kind: TensorRT's word for it, such as ``CaskConvolution``; empty where only names are held.
        nodes: of the model, that it was made of, or that it moves data for.
        copies: whether it only moves or converts data between layers.
        kernel: that TensorRT chose; empty where it does not say.
        types: of its inputs, such as ``float16``; those that it does not say are left out.
        elements: of its first output; None where it does not say.
    """

    name: str
    kind: str = ""
    nodes: tuple[str, ...] = ()
    copies: bool = False
    kernel: str = ""
    types: tuple[str, ...] = ()
    elements: int | None = None


def layers_of_engine(trt: Any, engine: Any, context: Any) -> tuple[EngineLayer, ...]:
    """Those of an engine, with the sizes of a context's shapes."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return read_layers(str(text))


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """The inspector's JSON; nothing where it is none."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return ()
    layers = found.get("Layers") if isinstance(found, dict) else None
    return tuple(map(_layer, layers)) if isinstance(layers, list) else ()


def layer_by_name(name: str) -> EngineLayer:
    """What a layer's name alone says."""
    copy = _COPY.match(name)
    own = copy.group(1) if copy else name
    return EngineLayer(name, nodes=tuple(own.split(_FUSED)), copies=bool(copy) or _only_moves(name))


def _layer(said: Any) -> EngineLayer:
    if not isinstance(said, dict):
        return layer_by_name(str(said))
    name = _text(said, "Name")
    plain, kind = layer_by_name(name), _text(said, "LayerType")
    nodes = tuple(_NODE.findall(_text(said, "Metadata")))
    outputs = _tensors(said, "Outputs")
    return EngineLayer(
        name,
        kind,
        nodes or plain.nodes,
        plain.copies or kind == REFORMAT,
        _text(said, "TacticName"),
        tuple(filter(None, map(_type, _tensors(said, "Inputs")))),
        _elements(outputs[0]) if outputs else None,
    )


def _only_moves(name: str) -> bool:
    """Whether a compiled kernel is called by moves alone, as ``__myl_MoveTran_myl0_3`` is."""
    compiled = _COMPILED.match(name)
    words = _WORDS.findall(compiled.group(1)) if compiled else []
    return bool(words) and _MOVING.issuperset(words)


def _text(said: dict[str, Any], field: str) -> str:
    value = said.get(field)
    return value if isinstance(value, str) else ""


def _tensors(said: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = said.get(field)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _type(tensor: dict[str, Any]) -> str:
    """The format is prose, such as ``Channel major FP16 format where channel % 8 == 0``."""
    words = re.findall(r"[a-z]+\d*", _text(tensor, "Format/Datatype").lower())
    return next((_WORD_OF_TYPE[word] for word in words if word in _WORD_OF_TYPE), "")


def _elements(tensor: dict[str, Any]) -> int | None:
    dims = tensor.get("Dimensions")
    if not isinstance(dims, list) or not all(isinstance(d, int) and d > 0 for d in dims):
        return None
    return prod(dims)
