"""What the stages of a reconstruction may choose; parts of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class RoundingChoices(BaseModel):
    """How the rounding of weights is learned, block by block (AdaRound, BRECQ).

    Attributes:
        iterations: updates of a block; published: 20,000.
        samples: calls of a block that are kept, spread over all steps of the sampler.
        batch: of them in an update; published: 32.
        rate: of Adam; published: 1e-3, for runs that are so much longer.
        penalty: weight of the sum of ``1 - |2h - 1|^beta`` beside the squared error.
        beta_start, beta_end: of the exponent, which falls linearly.
        warm_up: share of the updates before there is a penalty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(400, ge=1, le=1_000_000)
    samples: int = Field(256, ge=1, le=65_536)
    batch: int = Field(16, ge=1, le=4096)
    rate: float = Field(1e-2, gt=0, le=1)
    penalty: float = Field(0.01, ge=0, le=1000)
    beta_start: float = Field(20.0, ge=1, le=1000)
    beta_end: float = Field(2.0, ge=1, le=1000)
    warm_up: float = Field(0.2, ge=0, lt=1)

    def beta(self, iteration: int) -> float | None:
        """The exponent at an update, None while there is no penalty."""
        first = self.warm_up * self.iterations
        if iteration < first:
            return None
        passed = (iteration - first) / (self.iterations - first)
        return self.beta_start + (self.beta_end - self.beta_start) * passed


class ScalingChoices(BaseModel):
    """How equivalent scales of input channels are learned, layer by layer (DMQ).

    Attributes:
        iterations: updates of a layer; published: 6,000.
        samples: rows that meet a layer's weight, spread over all steps of the sampler; published
            are whole activations of 5,120 images at a step.
        images_per_step: of the calibration images, from which these rows are taken.
        batch: rows of an update.
        rate: of Adam, by the cosine to 0; published: 1e-3 for the factors themselves, here for
            their logarithms in runs that are so much shorter.
        refits: how often levels and ranges are fitted anew to the scaled layer meanwhile.
        rows_per_fit: rows whose errors decide how many bits a row of the weight gets in such a fit.
        largest_factor: of a channel before all are divided by their mean; the least is its inverse.
        step_power: alpha of the adaptive weights of steps, for 20 steps; 0 counts all alike.
            Published: 20, and 25 for one model.
        step_memory: xi, of the running losses behind these weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(300, ge=1, le=1_000_000)
    samples: int = Field(1280, ge=1, le=1_000_000)
    images_per_step: int = Field(4, ge=1, le=4096)
    batch: int = Field(128, ge=1, le=65_536)
    rate: float = Field(1e-2, gt=0, le=1)
    refits: int = Field(4, ge=1, le=1000)
    rows_per_fit: int = Field(256, ge=1, le=65_536)
    largest_factor: float = Field(64.0, gt=1, le=2.0**20)
    step_power: float = Field(20.0, ge=0, le=1000)
    step_memory: float = Field(0.95, ge=0, lt=1)


class PowerOfTwoChoices(BaseModel):
    """Steps of single channels that are the tensor's by powers of two (DMQ).

    Attributes:
        match: shell patterns of the layers; published: the shortcuts of residual blocks.
        largest_shift: D: steps are the tensor's, or up to ``2^D`` times smaller.
        agreement: kappa, the share of samples that must vote for a channel's step.
        samples: images that vote, spread over all steps of the sampler; where calibration has
            fewer, all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] = ("*.conv_shortcut",)
    largest_shift: int = Field(3, ge=1, le=6)
    agreement: float = Field(0.85, gt=0, le=1)
    samples: int = Field(2048, ge=1, le=1_000_000)
