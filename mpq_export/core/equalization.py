"""Moving range between a layer's input and its weight, channel by channel.

Smoothing: input channel ``c`` is divided by ``g_c = sqrt(max|X_c| / max|W_:,c|)`` and the weight's
columns multiplied by it, so that outlier channels do not set everybody's activation step
(SmoothQuant with exponent 1/2; used by EfficientDM and MPQ-DM). At run time the division is the
contract's ``input_factor`` r = 1 / g.
"""

from __future__ import annotations

import torch


def smoothing_factors(
    input_range: torch.Tensor, weight: torch.Tensor, group: int = 1
) -> torch.Tensor:
    """``g``, float32 ``[I]``, normalised to geometric mean 1.

    A common factor changes nothing, so the mean is fixed to keep scales near the weights' own.
    Channels that are always 0 on either side get 1.

    Args:
        input_range: float32 ``[I]``, greatest magnitude of every input channel.
        weight: float32 ``[O, I / group, ...]``, torch's layout of Linear and Conv2d.
        group: the convolution's groups.
    """
    per_group = weight.flatten(2).abs().amax(dim=2) if weight.dim() > 2 else weight.abs()
    weight_range = per_group.unflatten(0, (group, -1)).amax(dim=1).flatten()
    usable = (input_range > 0) & (weight_range > 0)
    log_factor = 0.5 * (input_range.clamp(min=1e-30).log() - weight_range.clamp(min=1e-30).log())
    if usable.any():
        log_factor = log_factor - log_factor[usable].mean()
    return torch.where(usable, log_factor.exp(), 1.0).float()
