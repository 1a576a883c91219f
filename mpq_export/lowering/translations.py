"""Torch operators that the exporter's own library translates wrongly, or into too many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def corrected_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export``'s ``custom_translation_table``."""
    from onnxscript import opset21 as op
    from onnxscript.function_libs.torch_lib.ops import nn as library

    def squeeze(x: Any, dim: int) -> Any:
        # Torch leaves an axis alone that is longer than 1, ONNX refuses it. PixArt relies on it.
        axes: Any = [dim]
        return op.Squeeze(x, axes) if x.shape[dim] == 1 else op.Identity(x)

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            return library.aten_scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            )
        # Five operators; the library scales twice and takes the key's shape apart to transpose it.
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    return {
        torch.ops.aten.squeeze.dim: squeeze,
        torch.ops.aten.scaled_dot_product_attention.default: attention,
    }
