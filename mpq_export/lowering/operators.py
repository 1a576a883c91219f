"""All operators of domain ``mpq``: their schemas, their bodies, and what their nodes may say."""

from __future__ import annotations

from functools import cache

import onnx

from ..core.planes import ContractError
from .attention_nodes import ATTENTION_OPERATOR
from .function_bodies import function_bodies
from .gelu_nodes import GELU_OPERATORS, gelu_form, is_gelu
from .layer_norm_nodes import ADA_LAYER_NORM_OPERATOR
from .nodes import DOMAIN, is_mpq, register_schemas, require_packed
from .norm_nodes import NORM_OPERATORS

_FUSED = {
    operator.name: operator
    for operator in (*NORM_OPERATORS, ATTENTION_OPERATOR, *GELU_OPERATORS, ADA_LAYER_NORM_OPERATOR)
}


@cache
def register_all_schemas() -> None:
    """Make every operator known to onnx's checker and shape inference; once per process."""
    register_schemas()
    for operator in _FUSED.values():
        operator.register()


def all_bodies() -> tuple[onnx.FunctionProto, ...]:
    """The bodies of all in standard operators; for a model's ``functions``."""
    return (*function_bodies(), *(operator.function() for operator in _FUSED.values()))


def require_allowed(node: onnx.NodeProto) -> None:
    """Raise ContractError on a node of the domain that no schema allows."""
    if node.domain != DOMAIN:
        return
    if is_mpq(node):
        require_packed(node)
    elif is_gelu(node):
        gelu_form(node)
    elif node.op_type in _FUSED:
        _FUSED[node.op_type].attributes_of(node)
    else:
        raise ContractError(f"node {node.name}: there is no operator {node.op_type}")
