"""From a bundle to an ONNX graph of packed nodes.

The model is traced with placeholder operators where its quantised layers stood; the placeholders
then become ``MPQLinear`` and ``MPQConv`` nodes that read the bundle's tensors as they are. Packed
data never passes through the tracer.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import helper
from torch import nn

from ..architectures import architecture_of
from ..bundle import Bundle
from ..conditions import Condition
from ..core.integer_reference import PackedLayer
from ..prediction import bias_table, predict
from ..skeleton import build_skeleton, cached_features_of
from .graph import Graph
from .graph_inputs import STEP_INDEX, TIMESTEP
from .nodes import make_node
from .tracing import named_conditions, trace

_PLACEHOLDER_DOMAIN = "mpq.placeholder"


class _Placeholder(nn.Module):
    """Stands for a quantised layer while the model is traced."""

    def __init__(self, name: str, layer: PackedLayer, context: _StepContext) -> None:
        super().__init__()
        self.name, self.layer, self.context = name, layer, context

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, conv = self.layer.weight.rows, self.layer.conv
        if conv is None:
            shape = (*x.shape[:-1], rows)
        else:
            shape = (x.shape[0], rows, *conv.output_size(x.shape[2], x.shape[3]))
        return torch.onnx.ops.symbolic(
            f"{_PLACEHOLDER_DOMAIN}::Layer",
            (x, self.context.step_index),
            attrs={"name": self.name},
            dtype=x.dtype,
            shape=shape,
            version=1,
        )


class _StepContext:
    """Hands the traced ``step_index`` to the placeholders."""

    step_index: torch.Tensor


class _Traced(nn.Module):
    """The denoiser as the exported graph computes it."""

    def __init__(self, bundle: Bundle, conditions: Sequence[Condition]) -> None:
        super().__init__()
        self.context = _StepContext()
        self.config, self.conditions = bundle.model_config, conditions
        self.features = cached_features_of(bundle)
        self.model = build_skeleton(
            bundle, lambda name, layer: _Placeholder(name, layer, self.context), self.features
        )
        self.output_bias: torch.Tensor
        self.register_buffer("output_bias", bias_table(bundle.output_bias))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        step_index: torch.Tensor,
        *conditions: torch.Tensor,
    ) -> torch.Tensor:
        self.context.step_index = step_index
        named = named_conditions(self.conditions, sample, conditions)
        self.features.select(step_index, sample, named)
        prediction = predict(self.model, self.config, sample, timestep, named)
        return prediction + self.output_bias[step_index.long()]


def export_graph(bundle: Bundle) -> Graph:
    """The bundle's model as ONNX, opset 21, batch size free, quantised layers as packed nodes.

    Inputs ``sample`` ``[B, C, H, W]``, ``timestep`` float32 ``[1]``, ``step_index`` int32 ``[1]``
    and the model's conditions; output ``prediction``.
    """
    architecture = architecture_of(bundle.model_config)
    specs = architecture.conditions(bundle.model_config)
    scalars = {TIMESTEP: torch.zeros(1), STEP_INDEX: torch.zeros(1, dtype=torch.int32)}
    traced = trace(
        _Traced(bundle, specs).eval(), bundle.model_config, scalars, where=bundle.path
    ).model_proto
    assert not traced.functions, "everything but packed nodes is standard operators"
    graph = Graph.of(traced)
    nodes: list[onnx.NodeProto] = []
    values = dict(graph.values())
    for node in graph.model.graph.node:
        if node.domain != _PLACEHOLDER_DOMAIN:
            node.doc_string = ""
            del node.metadata_props[:]
            nodes.append(node)
            continue
        name = helper.get_node_attr_value(node, "name").decode()
        packed, tensors = make_node(
            name, bundle.layers[name], node.input[0], STEP_INDEX, node.output[0]
        )
        nodes.append(packed)
        values |= tensors
    graph.model.graph.name = architecture.class_name
    return graph.with_nodes(nodes, values, with_mpq=True)
