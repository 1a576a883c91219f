"""Whether a lowered model was made from the layers and features of the bundle it lies in.

Folders get mixed up when they are copied; a graph of another quantisation would run, and give
wrong images without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..core.feature_table import FeatureTable
from ..core.integer_reference import PackedLayer
from ..core.planes import ContractError
from .graph import Graph
from .graph_inputs import FEATURES
from .nodes import is_mpq


def require_lowered_from(
    graph: Graph, layers: Mapping[str, PackedLayer], features: FeatureTable | None = None
) -> None:
    """Raise ContractError unless the graph holds these layers' tensors, and this table.

    Packed nodes are compared in all that they store, rewritten ones in their tables, scales and
    biases.
    """
    arrays = graph.values()
    packed = {node.name for node in graph.model.graph.node if is_mpq(node)}
    if packed and packed != layers.keys():
        strangers = sorted(packed ^ layers.keys())
        raise ContractError(f"its layers are others: {', '.join(strangers[:3])}")
    for key, value in ({} if features is None else vars(features)).items():
        if not _equal(arrays.get(f"{FEATURES}.{key}"), value):
            raise ContractError(f"its {FEATURES}.{key} is not the bundle's")
    for name, layer in layers.items():
        for key, value in (_packed(layer) if packed else _rewritten(layer)).items():
            if not _equal(arrays.get(f"{name}.{key}"), value):
                raise ContractError(f"its {name}.{key} is not the bundle's")


def _packed(layer: PackedLayer) -> dict[str, np.ndarray]:
    return {
        "act_scale": layer.act_scale,
        "act_zero_point": layer.act_zero_point,
        "planes": layer.weight.planes,
        "steps": layer.weight.steps,
        "scale": layer.weight.scale,
        "row_order": layer.weight.row_order,
        "bias": layer.bias,
        "input_factor": layer.input_factor,
        "input_shift": layer.input_shift,
    }


def _rewritten(layer: PackedLayer) -> dict[str, np.ndarray]:
    scale = np.empty_like(layer.weight.scale)
    scale[layer.weight.row_order] = layer.weight.scale
    return {"act_scale": layer.act_scale, "weight_scale": scale, "bias": layer.bias}


def _equal(found: np.ndarray | None, expected: np.ndarray) -> bool:
    return found is not None and found.dtype == expected.dtype and np.array_equal(found, expected)
