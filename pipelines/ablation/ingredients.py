"""The parts of a recipe that can be taken out, or put in, one alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.bit_allocation import Allocation
from ...core.low_rank_form import LowRankStart
from ...core.table_steps import TableSteps
from ...core.weight_form import WeightForm
from ...methods import Recipe
from ...training.choices import RelationKind

_TRAINING = "training"


@dataclass(frozen=True)
class Ingredient:
    """A part of a recipe.

    Attributes:
        name: what it is called in the field.
        field: of the recipe, ``training.`` before those of its training.
        present, absent: the field's value with and without it.
    """

    name: str
    field: str
    present: Any
    absent: Any

    def switched(self, recipe: Recipe) -> tuple[str, Recipe]:
        """What it is called, and the recipe without it, or with it where it had none."""
        where, _, name = self.field.rpartition(".")
        choices = recipe.training if where == _TRAINING else recipe
        has = getattr(choices, name) == self.present
        changed = choices.model_copy(update={name: self.absent if has else self.present})
        label = f"without {self.name}" if has else f"with {self.name}"
        if where == _TRAINING:
            changed = recipe.model_copy(update={_TRAINING: changed})
        return label, changed


INGREDIENTS = (
    Ingredient("residual planes", "weight_form", WeightForm.RESIDUAL, WeightForm.UNIFORM),
    Ingredient("mixed orders", "allocation", Allocation.KURTOSIS, Allocation.EQUAL),
    Ingredient(
        "low-rank initialisation",
        "training.low_rank_start",
        LowRankStart.QUANTIZATION_ERROR,
        LowRankStart.ZERO,
    ),
    Ingredient("MTRD", "training.relation", RelationKind.MEMORY, RelationKind.NONE),
    Ingredient("weights of errors", "training.error_power", 1.0, 0.0),
    Ingredient("output bias per step", "training.output_bias", True, False),
    Ingredient("bias correction", "bias_correction", True, False),
    Ingredient("smoothing", "smoothing", True, False),
)


def switched(recipe: Recipe) -> Mapping[str, Recipe]:
    """The recipe with each ingredient alone taken out, or put in where it has none."""
    return dict(ingredient.switched(recipe) for ingredient in INGREDIENTS)


def temporal_steps(whole: Recipe) -> Mapping[str, Recipe]:
    """TFMQ-DM's parts, each with all before it; and blocks fitted as if nothing were temporal."""
    nothing: dict[str, Any] = {"temporal_rounding": None, "rounding": None, "cache": None}
    plain = whole.model_copy(update={**nothing, "tables": TableSteps.SHARED})
    learned = {"temporal_rounding": whole.temporal_rounding, "rounding": whole.rounding}
    return {
        "nearest rounding, one range for all steps": plain,
        "+ reconstruction": plain.model_copy(update=learned),
        "+ finite-set calibration": whole.model_copy(update={"cache": None}),
        "+ cache": whole,
        "temporal layers fitted with their blocks, no cache": whole.model_copy(
            update={"temporal_rounding": None, "cache": None}
        ),
    }


def scaling_steps(whole: Recipe) -> Mapping[str, Recipe]:
    """DMQ's parts, each with all before it; and the whole to the nearest levels."""
    assert whole.scaling is not None, "the method learns scales"
    alike = whole.scaling.model_copy(update={"step_power": 0.0})
    without_shifts = whole.model_copy(update={"power_of_two": None})
    unscaled = without_shifts.model_copy(update={"scaling": None})
    return {
        "learned rounding": unscaled.model_copy(update={"split_concatenations": False}),
        "+ split concatenations": unscaled,
        "+ scaling": without_shifts.model_copy(update={"scaling": alike}),
        "+ timestep weights": without_shifts,
        "+ power-of-two": whole,
        "dmq, nearest rounding": whole.model_copy(update={"rounding": None}),
    }


def combination_stages(whole: Recipe) -> Mapping[str, Recipe]:
    """The combination without each of the stages that it adds to MPQ-DMv2, and with DMQ's weights
    of steps in its loss."""
    weighted = whole.training.model_copy(update={"step_power": 20.0})
    changes: dict[str, dict[str, Any]] = {
        "with weights of steps": {_TRAINING: weighted},
        "without cache": {"cache": None},
        "without scaling": {"scaling": None},
        "without power-of-two": {"power_of_two": None},
        "without split concatenations": {"split_concatenations": False},
    }
    return {label: whole.model_copy(update=change) for label, change in changes.items()}
