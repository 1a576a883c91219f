"""What a training run may choose; part of a recipe."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..core.low_rank_form import LowRankBase, LowRankStart
from .limits import MAX_IMAGES, MAX_UPDATES
from .relation_settings import MemorySettings, TimeSmoothedSettings


class Trained(StrEnum):
    """Which weights an update changes, beside levels and activation tables."""

    LOW_RANK = "low-rank"
    """A low-rank branch of every layer, merged when training ends (EfficientDM, MPQ-DM)."""
    FULL = "full"
    """Every weight of the model, biases, normalisations and embeddings included."""


class RelationKind(StrEnum):
    """Which relations between features are distilled beside the prediction."""

    NONE = "none"
    TIME_SMOOTHED = "time-smoothed"
    """MPQ-DM: relations of an image's pixels, features averaged over two consecutive steps."""
    MEMORY = "memory"
    """MPQ-DMv2: relations to pixels of all timesteps, remembered in a queue per timestep."""


class TrainingChoices(BaseModel):
    """How a quantised model learns from the full-precision one.

    Attributes:
        updates: number of updates; 0 leaves the model as it was first quantised.
        groups: an update sees so many groups of images, each at another timestep.
        images_per_group: images at one timestep.
        trained: which weights.
        rank: of the low-rank branches (published: 32).
        low_rank_base: what the branches are added to.
        low_rank_start: how they begin.
        weight_rate: learning rate of weights or branches, in mean level spacings of their layer
            (published for branches: 1/2500).
        level_rate: of the levels: relative change of scales and steps.
        table_rate: of the activation tables: relative change of a scale, share of the code range
            for a zero point.
        float_rate: of what stays in floating point, when all weights are trained.
        error_power: coarse and fine squared errors of the prediction at each step are weighted by
            this power of how much they change the image; 0 counts all alike, as published.
        step_power: alpha of the adaptive weights of steps (DMQ), for 20 steps, beside those of
            errors: steps where the student is far off count less; 0 counts all alike.
        step_memory: xi, of the running losses behind these weights.
        relation: relation distillation.
        relation_weight: its weight beside the mean squared error of the prediction.
        memory, time_smoothed: constants of the two relations.
        output_bias: fit a bias of the prediction for every timestep when training ends.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping
            them: about a third more time, much less memory.
        offload_teacher: on a GPU, keep the full-precision model's weights in the host's memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    updates: int = Field(0, ge=0, le=MAX_UPDATES)
    groups: int = Field(8, ge=1, le=4096)
    images_per_group: int = Field(4, ge=1, le=4096)
    trained: Trained = Trained.FULL
    rank: int = Field(32, ge=1, le=4096)
    low_rank_base: LowRankBase = LowRankBase.FULL_PRECISION
    low_rank_start: LowRankStart = LowRankStart.ZERO
    weight_rate: float = Field(0.01, gt=0, le=1)
    level_rate: float = Field(1e-3, ge=0, le=1)
    table_rate: float = Field(3e-3, ge=0, le=1)
    float_rate: float = Field(3e-4, ge=0, le=1)
    error_power: float = Field(1.0, ge=0, le=4)
    step_power: float = Field(0.0, ge=0, le=1000)
    step_memory: float = Field(0.95, ge=0, lt=1)
    relation: RelationKind = RelationKind.NONE
    relation_weight: float = Field(0.1, ge=0, le=1e6)
    memory: MemorySettings = MemorySettings()
    time_smoothed: TimeSmoothedSettings = TimeSmoothedSettings()
    output_bias: bool = True
    gradient_checkpointing: bool = False
    offload_teacher: bool = False

    @model_validator(mode="after")
    def _an_update_is_bounded(self) -> Self:
        images = self.groups * self.images_per_group
        if images > MAX_IMAGES:
            raise ValueError(
                f"groups x images_per_group is {images:,} images in every update, "
                f"at most {MAX_IMAGES:,} are possible"
            )
        return self
