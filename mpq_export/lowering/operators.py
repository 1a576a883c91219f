"""All operators of domain ``mpq``: their schemas, their bodies, and what their nodes may say."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from .attention_nodes import (
    attention_body,
    is_attention,
    register_attention_schema,
    require_attention,
)
from .function_bodies import function_bodies
from .gelu_nodes import gelu_bodies, gelu_form, is_gelu, register_gelu_schemas
from .layer_norm_nodes import (
    ada_layer_norm_attributes,
    is_ada_layer_norm,
    layer_norm_body,
    register_layer_norm_schema,
)
from .nodes import attributes_of, is_mpq, register_schemas
from .norm_nodes import is_norm, norm_attributes, norm_bodies, register_norm_schemas


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


def require_allowed(node: onnx.NodeProto) -> None:
    """Raise ContractError on a node of the domain that its schema does not allow."""
    for is_one, read in _READERS:
        if is_one(node):
            read(node)


_READERS: tuple[
    tuple[Callable[[onnx.NodeProto], bool], Callable[[onnx.NodeProto], object]], ...
] = (
    (is_mpq, attributes_of),
    (is_norm, norm_attributes),
    (is_attention, require_attention),
    (is_gelu, gelu_form),
    (is_ada_layer_norm, ada_layer_norm_attributes),
)
