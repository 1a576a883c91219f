"""Shapes of a graph's tensors, as far as they can be inferred."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .graph import Graph
from .operators import register_all_schemas

Dims = tuple[int | str, ...]
"""Lengths of a tensor's axes; of a free one its name."""
Shape = tuple[int | str | None, ...]
"""Lengths, names of free ones, None for those that are not known."""


def shapes_of(graph: Graph) -> Mapping[str, Shape]:
    """Shapes of all tensors of which anything is known."""
    register_all_schemas()
    model = graph.structure()
    for node in model.graph.node:
        if (node.domain, node.op_type) == ("", "GroupNormalization"):  # onnx infers no shape of it
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }


def same_batch(first: int | str | None, second: int | str | None) -> bool:
    """Whether two batches surely are equal.

    Lengths that are not numbers come from the graph's inputs, whose batch is one and the same.
    """
    both_free = not isinstance(first, int) and not isinstance(second, int)
    return both_free or first == second
