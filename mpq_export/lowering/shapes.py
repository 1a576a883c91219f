"""Shapes of a graph's tensors, as far as they can be inferred."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .graph import Graph
from .operators import register_all_schemas

Shape = tuple[int | str | None, ...]
"""Lengths, names of free ones, None for those that are not known."""


def shapes_of(graph: Graph) -> Mapping[str, Shape]:
    """Shapes of all tensors of which anything is known."""
    register_all_schemas()
    model = onnx.shape_inference.infer_shapes(graph.structure(), data_prop=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
