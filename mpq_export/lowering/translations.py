"""Torch operators that the exporter's own library translates wrongly for some models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def corrected_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export``'s ``custom_translation_table``."""
    from onnxscript import opset21 as op

    def squeeze(x: Any, dim: int) -> Any:
        # Torch leaves an axis alone that is longer than 1, ONNX refuses it. PixArt relies on it.
        axes: Any = [dim]
        return op.Squeeze(x, axes) if x.shape[dim] == 1 else op.Identity(x)

    return {torch.ops.aten.squeeze.dim: squeeze}
