"""A bundle in torch on the processor: every layer computes the contract's integers exactly."""

from __future__ import annotations

import torch

from ..bundle import Bundle
from ..core.layers import FrozenLayer, StepIndex
from ..prediction import bias_table, predict
from ..schedulers import nearest_step
from ..skeleton import build_skeleton, cached_features_of
from .selection import reference_selection


class TorchDenoiser:
    """The reference denoiser; arrays are ``torch.Tensor``.

    Args:
        bundle: the bundle.
        reason: why it runs, where something faster was asked for; may be empty.
    """

    array_type: type = torch.Tensor

    def __init__(self, bundle: Bundle, reason: str = "") -> None:
        self.model_config = bundle.model_config
        self.selection = reference_selection(reason)
        self._timesteps = bundle.timesteps
        self._output_bias = bias_table(bundle.output_bias)
        self._step = StepIndex()
        self._features = cached_features_of(bundle)
        self.model = build_skeleton(
            bundle, lambda _name, layer: FrozenLayer(layer, self._step), self._features
        )

    @torch.no_grad()
    def __call__(
        self, sample: torch.Tensor, timestep: float, **conditions: torch.Tensor
    ) -> torch.Tensor:
        """Predict for float32 ``[B, C, H, W]``."""
        self._step.value = nearest_step(self._timesteps, float(timestep))
        self._features.select(torch.tensor([self._step.value]), sample, conditions)
        time = torch.as_tensor(float(timestep), device=sample.device)
        prediction = predict(self.model, self.model_config, sample, time, conditions)
        return prediction + self._output_bias[self._step.value].to(sample.device)
