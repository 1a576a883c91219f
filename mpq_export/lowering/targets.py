"""The lowered variants of a bundle: what each target's file is, and where it lies.

``onnx/<target>/model.onnx`` with a manifest of hashes beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from ..errors import BundleError
from ..files import read_manifest, staged_folder, verified_bytes, write_manifest
from .function_bodies import function_bodies
from .names import Target
from .nodes import model_from_graph, register_schemas
from .portable import WeightType, to_portable

MODEL = "model.onnx"
_PROTOBUF_LIMIT = 2**31 - 1


def _with_function_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    return model_from_graph(model.graph, function_bodies())


def _portable(model: onnx.ModelProto) -> onnx.ModelProto:
    return to_portable(model, WeightType.PORTABLE)


_LOWER: dict[Target, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    Target.ORT: _with_function_bodies,
    Target.ONNX: _portable,
}


def write_lowered(bundle: Path, packed_graph: onnx.ModelProto, target: Target) -> Path:
    """Lower a graph of packed nodes to a target's file inside the bundle, atomically.

    Returns the model's path.
    """
    register_schemas()
    if packed_graph.ByteSize() > _PROTOBUF_LIMIT:
        raise BundleError(
            "The model is too large for one ONNX file",
            where=bundle,
            why=f"It has {packed_graph.ByteSize()} bytes; protobuf holds {_PROTOBUF_LIMIT}",
        )
    model = _LOWER[target](packed_graph)
    onnx.checker.check_model(model, full_check=True)
    folder = bundle / "onnx" / target.value
    _require_own(folder)
    with staged_folder(folder) as stage:
        onnx.save(model, stage / MODEL)
        write_manifest(stage, [MODEL])
    return folder / MODEL


def read_lowered(bundle: Path, target: Target) -> onnx.ModelProto:
    """A target's model, verified against its manifest."""
    folder = bundle / "onnx" / target.value
    if not folder.is_dir():
        raise BundleError(
            f"The bundle has not been lowered to '{target.value}'",
            where=bundle,
            fix=f"Run: mpq-export --ckpt {bundle} --target {target.value}",
        )
    _require_own(folder)
    manifest = read_manifest(folder, [MODEL], BundleError, "Lower the bundle again")
    data = verified_bytes(folder, MODEL, manifest, BundleError)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise BundleError("The model is not ONNX", where=folder / MODEL, why=str(error)) from error
    if TensorProto.EXTERNAL in _data_locations(model):
        raise BundleError(
            "The model wants to read other files",
            where=folder / MODEL,
            why="It has tensors with external data, which a bundle's models do not have",
        )
    return model


def _require_own(folder: Path) -> None:
    """Refuse to follow links out of the bundle."""
    for part in (folder, folder.parent):
        if part.is_symlink():
            raise BundleError("The folder is a link", where=part, why="A bundle holds its files")


def _data_locations(message: Message) -> Iterator[int]:
    """``data_location`` of every tensor anywhere in a model: graphs, attributes, functions."""
    if isinstance(message, TensorProto):
        yield message.data_location
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if isinstance(value, Sequence) else (value,):
                yield from _data_locations(child)
