"""The second file of a graph above 2 GB: large tensors one after another, aligned.

ONNX lets a tensor name any file. Ours name one, beside the model and listed in its manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper

from ..errors import BundleError
from ..files import Manifest, verified_map
from .graph import DATA_FILE, Graph

_ALIGNMENT = 64
_MAX_AXES = 8


def write_data(path: Path, graph: Graph) -> onnx.ModelProto:
    """Write a graph's large tensors and return its model, which says where each one lies."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    with path.open("wb") as stream:
        for tensor in model.graph.initializer:
            if tensor.name not in graph.tensors:
                continue
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            value = graph.tensors[tensor.name]
            tensor.external_data.add(key="offset", value=str(stream.tell()))
            tensor.external_data.add(key="length", value=str(value.nbytes))
            stream.write(value.tobytes())
    return model


def attach_data(folder: Path, model: onnx.ModelProto, manifest: Manifest) -> Graph:
    """The graph of a model that was read, its large tensors mapped from the second file if any.

    Raises BundleError on a tensor that names another file or a place outside this one, and on data
    outside anywhere but in the graph's own initializers.
    """
    where = folder / "model.onnx"
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    if sum(place == TensorProto.EXTERNAL for place in _data_locations(model)) != len(outside):
        raise _refused(where, "A node or a function has a tensor with external data")
    if not outside:
        return Graph.of(model)
    if DATA_FILE not in manifest:
        raise _refused(where, "It has tensors with external data, but no data file")
    data = verified_map(folder, DATA_FILE, manifest, BundleError)
    tensors = {tensor.name: _located(tensor, data, where) for tensor in outside}
    for tensor in outside:
        del tensor.external_data[1:]
    return Graph(model, tensors)


def _located(tensor: TensorProto, data: np.ndarray, where: Path) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    own = set(entries) == {"location", "offset", "length"} and len(tensor.external_data) == 3
    if not own or entries["location"] != DATA_FILE:
        raise _refused(where, f"Tensor {tensor.name} is at {dict(sorted(entries.items()))}")
    try:
        offset, length = int(entries["offset"]), int(entries["length"])
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (ValueError, KeyError) as error:
        raise _refused(where, f"Tensor {tensor.name}: {error}") from error
    dims = tuple(tensor.dims)
    fits = (
        len(dims) <= _MAX_AXES
        and all(size >= 0 for size in dims)
        and length == math.prod(dims) * dtype.itemsize
        and offset >= 0
        and offset % _ALIGNMENT == 0
        and offset + length <= len(data)
    )
    if not fits:
        raise _refused(where, f"Tensor {tensor.name} does not fit its place in {DATA_FILE}")
    return data[offset : offset + length].view(dtype).reshape(dims)


def _refused(where: Path, why: str) -> BundleError:
    return BundleError(
        "The model wants to read what it must not", where=where, why=why, fix="Lower it again"
    )


def _data_locations(message: Message) -> Iterator[int]:
    """``data_location`` of every tensor anywhere in a model: graphs, attributes, functions."""
    if isinstance(message, TensorProto):
        yield message.data_location
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if isinstance(value, Sequence) else (value,):
                yield from _data_locations(child)
