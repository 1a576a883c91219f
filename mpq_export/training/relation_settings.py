"""Constants of the relation losses; part of a recipe, and light to import."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MemorySettings(BaseModel):
    """Constants of MPQ-DMv2's memory relation.

    Attributes:
        capacity: pixels in the memory, over all timesteps.
        sampled: pixels of it that a pixel is compared with.
        pushed_per_image: pixels that an image leaves in its timestep's ring at every update.
        rows_per_image: pixels of an image that are compared; the others take no part in that
            update. The loss takes ``B * rows_per_image * sampled`` elements.
        temperature: of the similarities, cosines.

    The first two and the last are published, of the same authors' distillation without timesteps
    (MPQ-DMv2 prints none); with 8 images at a timestep, so is the number of pushed pixels, 128.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    capacity: int = Field(20_000, ge=1, le=1 << 24)
    sampled: int = Field(4096, ge=1, le=1 << 20)
    pushed_per_image: int = Field(16, ge=1, le=1 << 20)
    rows_per_image: int = Field(16, ge=1, le=1 << 20)
    temperature: float = Field(0.1, gt=0, le=1e6)


class TimeSmoothedSettings(BaseModel):
    """Constants of MPQ-DM's relation of an image's own pixels.

    Attributes:
        rows_per_image: pixels of an image that are compared with all of it; published are all.
            The loss takes ``B * rows_per_image * P`` elements.
        temperature: of the similarities, cosines; 1 as published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_per_image: int = Field(256, ge=1, le=1 << 20)
    temperature: float = Field(1.0, gt=0, le=1e6)
