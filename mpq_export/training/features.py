"""The last feature map of a denoiser, which relation distillation compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..architectures import architecture_of


class Features:
    """What the latest forward showed, still in its graph if it has one."""

    def __init__(self) -> None:
        self._seen: torch.Tensor | None = None

    @property
    def pixels(self) -> torch.Tensor:
        """``[B, P, C]``: P pixels or tokens of C channels; the model must have run."""
        if self._seen is None:
            raise RuntimeError("the model has not run yet")
        return self._seen

    def hook(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook."""
        feature_map = inputs[0]
        is_image = feature_map.ndim == 4
        self._seen = feature_map.flatten(2).transpose(1, 2) if is_image else feature_map


@contextmanager
def captured_features(model: nn.Module, model_config: Mapping[str, Any]) -> Iterator[Features]:
    """Listen to a model, full-precision or quantised in place, while the block runs."""
    features = Features()
    name = architecture_of(model_config).feature_module(model_config)
    handle = model.get_submodule(name).register_forward_pre_hook(features.hook)
    try:
        yield features
    finally:
        handle.remove()
