"""A method is a recipe: a frozen record of choices, by name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from ..errors import RecipeError


class Recipe(BaseModel):
    """All choices of a quantisation run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    summary: str
    weight_form: WeightForm
    allocation: Allocation
    smoothing: bool
    calibration_images: int = Field(32, ge=1, le=4096)


METHODS: dict[str, Recipe] = {}


def register(recipe: Recipe) -> Recipe:
    """Add a method to the registry."""
    METHODS[recipe.method] = recipe
    return recipe


def recipe_of(method: str) -> Recipe:
    """The recipe of a method by name."""
    try:
        return METHODS[method]
    except KeyError:
        raise RecipeError(
            f"There is no method '{method}'",
            where="--method",
            why="; ".join(f"{name} is {METHODS[name].summary}" for name in sorted(METHODS)),
        ) from None
