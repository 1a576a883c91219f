"""From a bundle to an ONNX graph of packed nodes.

The model is traced with placeholder operators where its quantised layers stood; the placeholders
then become ``MPQLinear`` and ``MPQConv`` nodes that read the bundle's tensors as they are. Packed
data never passes through the tracer.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from ..architectures import Architecture, architecture_of
from ..bundle import Bundle
from ..conditions import BATCH, TOKENS, Condition
from ..core.integer_reference import PackedLayer
from ..errors import BundleError
from ..prediction import predict
from ..skeleton import build_skeleton
from .graph import Graph
from .graph_inputs import PREDICTION, SAMPLE, STEP_INDEX, TIMESTEP
from .nodes import OPSET, make_node
from .translations import corrected_translations

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
        self.model = build_skeleton(
            bundle, lambda name, layer: _Placeholder(name, layer, self.context)
        )
        self.output_bias: torch.Tensor
        self.register_buffer("output_bias", torch.from_numpy(bundle.output_bias.copy()))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        step_index: torch.Tensor,
        *conditions: torch.Tensor,
    ) -> torch.Tensor:
        self.context.step_index = step_index
        lengths = {BATCH: sample.shape[0]}
        for spec, value in zip(self.conditions, conditions, strict=True):
            for axis, name in spec.free_axes.items():
                # The tracer takes equal names for different lengths until it is told.
                torch._check(value.shape[axis] == lengths.setdefault(name, value.shape[axis]))
        names = (spec.name for spec in self.conditions)
        named = dict(zip(names, conditions, strict=True))
        prediction = predict(self.model, self.config, sample, timestep, named)
        return prediction + self.output_bias[step_index.long()]


def export_graph(bundle: Bundle) -> Graph:
    """The bundle's model as ONNX, opset 21, batch size free, quantised layers as packed nodes.

    Inputs ``sample`` ``[B, C, H, W]``, ``timestep`` float32 ``[1]``, ``step_index`` int32 ``[1]``
    and the model's conditions; output ``prediction``.
    """
    architecture = architecture_of(bundle.model_config)
    traced = _trace(bundle, architecture)
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


def _trace(bundle: Bundle, architecture: Architecture) -> onnx.ModelProto:
    """The traced model with placeholder nodes."""
    specs = architecture.conditions(bundle.model_config)
    shape = architecture.sample_shape(bundle.model_config)
    rng = np.random.default_rng(0)
    # Two images: a batch of one would be taken for a constant.
    example = (
        torch.zeros(2, *shape),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int32),
        *(torch.from_numpy(spec.draw(2, rng)) for spec in specs),
    )
    axes = {name: torch.export.Dim(name, min=1) for name in (BATCH, TOKENS)}
    free = tuple({axis: axes[name] for axis, name in spec.free_axes.items()} for spec in specs)
    dynamic = ({0: axes[BATCH]}, None, None, *((free,) if specs else ()))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_exporter():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Traced(bundle, specs).eval(),
                example,
                input_names=[SAMPLE, TIMESTEP, STEP_INDEX, *(spec.name for spec in specs)],
                output_names=[PREDICTION],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=dynamic,
                custom_translation_table=corrected_translations(),
                verbose=False,
            )
        except Exception as error:  # the tracer passes on whatever the model raises
            raise BundleError(
                "The model cannot be traced to ONNX",
                where=bundle.path,
                why=_cause(error),
            ) from error
    assert program is not None, "torch.onnx.export with dynamo returns a program"
    return program.model_proto


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom: the tracer wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet_exporter():
    """The exporter logs every pass; only its errors matter to users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
