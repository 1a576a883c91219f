"""What a recipe chooses for temporal features."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CacheChoices(BaseModel):
    """Temporal features in a table instead of the layers that make them.

    Attributes:
        largest_table: bytes that the table may take; where one for all labels would take more, only
            what the timestep alone says is cached.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest_table: int = Field(1 << 24, ge=1, le=1 << 30)
