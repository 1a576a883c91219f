"""Classifier-free guidance of the model that trajectories are driven by."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Guidance:
    """How a sampler's prediction is made of the model's.

    Attributes:
        scale: 1 is no guidance.
        channels: of a sample; further channels of a prediction are a learned variance.
    """

    scale: float
    channels: int

    @property
    def copies(self) -> int:
        """How often the model sees every image: twice under guidance, first unconditionally."""
        return 1 if self.scale == 1 else 2

    def combined(self, prediction: torch.Tensor) -> torch.Tensor:
        """``[copies * B, C', H, W]`` to ``[B, C', H, W]``.

        A learned variance is not guided, it is the conditional half's (as diffusers' DiT pipeline
        does).
        """
        if self.copies == 1:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        base, wanted = unconditional[:, : self.channels], conditional[:, : self.channels]
        return torch.cat(
            [base + self.scale * (wanted - base), conditional[:, self.channels :]], dim=1
        )
