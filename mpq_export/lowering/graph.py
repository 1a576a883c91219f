"""An ONNX model beside its large tensors, which never pass through protobuf's 2 GB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .nodes import arrays_of, model_from_graph

SMALL_BYTES = 1024
"""Tensors up to this size stay in the model: shapes, axes and slices, which inference reads."""
DATA_FILE = "model.onnx.data"


@dataclass(frozen=True)
class Graph:
    """An ONNX model whose large initializers are arrays.

    Attributes:
        model: every large initializer is there as a shell: name, type and shape without data.
        tensors: the shells' arrays, C-contiguous, by name.
    """

    model: onnx.ModelProto
    tensors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, model: onnx.ModelProto, more: Mapping[str, np.ndarray] | None = None) -> Graph:
        """Take the large tensors out of a model, and add ``more`` initializers to it."""
        values = arrays_of(model.graph.initializer)
        values |= {name: np.ascontiguousarray(value) for name, value in (more or {}).items()}
        own = model.graph
        graph = helper.make_graph(
            own.node, own.name, own.input, own.output, value_info=own.value_info
        )
        return cls._built(model, graph, values)

    def with_nodes(
        self, nodes: Sequence[onnx.NodeProto], values: Mapping[str, np.ndarray], with_mpq: bool
    ) -> Graph:
        """A graph of other nodes and initializers between the same inputs and outputs."""
        own = self.model.graph
        graph = helper.make_graph(nodes, own.name, own.input, own.output)
        return self._built(model_from_graph(graph, with_mpq=with_mpq), graph, values)

    @staticmethod
    def _built(
        model: onnx.ModelProto, graph: onnx.GraphProto, values: Mapping[str, np.ndarray]
    ) -> Graph:
        large = {name: value for name, value in values.items() if value.nbytes > SMALL_BYTES}
        for name, value in values.items():
            graph.initializer.append(
                _shell(name, value) if name in large else numpy_helper.from_array(value, name)
            )
        return Graph(_with_graph(model, graph), large)

    def values(self) -> Mapping[str, np.ndarray]:
        """All initializers by name."""
        small = arrays_of(t for t in self.model.graph.initializer if t.name not in self.tensors)
        return {**small, **self.tensors}

    def inline(self) -> onnx.ModelProto:
        """One model with all data inside; protobuf can serialise it up to 2 GB."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in self.tensors:
                tensor.CopyFrom(numpy_helper.from_array(self.tensors[tensor.name], tensor.name))
        return model

    def structure(self) -> onnx.ModelProto:
        """The model with its shells as inputs, for checkers that want no data."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.initializer[:]
        for tensor in self.model.graph.initializer:
            if tensor.name in self.tensors:
                model.graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
            else:
                model.graph.initializer.append(tensor)
        return model


def _shell(name: str, value: np.ndarray) -> TensorProto:
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        dims=value.shape,
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=DATA_FILE)
    return tensor


def _with_graph(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A copy of a model with another graph; the old one's data is not copied."""
    copy = helper.make_model(
        graph,
        opset_imports=model.opset_import,
        functions=model.functions,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    copy.metadata_props.extend(model.metadata_props)
    return copy
