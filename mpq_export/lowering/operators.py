"""All operators of domain ``mpq``: their schemas and their bodies."""

from __future__ import annotations

import onnx

from .attention_nodes import attention_body, register_attention_schema
from .function_bodies import function_bodies
from .gelu_nodes import gelu_bodies, register_gelu_schemas
from .layer_norm_nodes import layer_norm_body, register_layer_norm_schema
from .nodes import register_schemas
from .norm_nodes import norm_bodies, register_norm_schemas


def register_all_schemas() -> None:
    """Make every operator known to onnx's checker and shape inference; once per process."""
    register_schemas()
    register_norm_schemas()
    register_attention_schema()
    register_gelu_schemas()
    register_layer_norm_schema()


def all_bodies() -> tuple[onnx.FunctionProto, ...]:
    """The bodies of all in standard operators; for a model's ``functions``."""
    return (
        *function_bodies(),
        *norm_bodies(),
        attention_body(),
        *gelu_bodies(),
        layer_norm_body(),
    )
