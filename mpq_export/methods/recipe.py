"""A method is a recipe: a frozen record of choices, by name, with rules for single layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..core.bit_allocation import Allocation
from ..core.low_rank_form import LowRankBase, LowRankStart
from ..core.table_steps import TableSteps
from ..core.weight_form import WeightForm
from ..errors import BitsError, RecipeError
from ..precision import BitSpec
from ..reconstruction.choices import PowerOfTwoChoices, RoundingChoices, ScalingChoices
from ..temporal.choices import CacheChoices
from ..training.choices import Trained, TrainingChoices


class LayerRule(BaseModel):
    """Choices for the layers whose names match a pattern; what is None stays as it was.

    Attributes:
        match: shell pattern of module names, such as ``up_blocks.*.to_v``; ``*`` crosses dots.
        bits: such as ``w4a8``.
        keep: True, or the reason, leaves the layers in floating point; False takes that back.
        weight_form, allocation, smoothing: as in :class:`Recipe`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str = Field(min_length=1, max_length=512)
    bits: str | None = None
    keep: bool | Annotated[str, Field(min_length=1, max_length=512)] | None = None
    weight_form: WeightForm | None = None
    allocation: Allocation | None = None
    smoothing: bool | None = None

    @field_validator("bits")
    @classmethod
    def _bits_are_bits(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                BitSpec.parse(value)
            except BitsError as error:
                raise ValueError(error.paragraph()) from error
        return value


class Recipe(BaseModel):
    """All choices of a quantisation run.

    Attributes:
        method, summary: the method's own.
        weight_form, allocation, smoothing: how layers are first quantised.
        calibration_images: how many images are walked for that.
        guidance: classifier-free guidance scale that drives training's trajectories; 1 is none.
        eta: DDIM's, of training's trajectories; None is the scheduler's own, which is 0.
        scaling: how factors of input channels are learned before layers are quantised; where there
            is smoothing too, it is for the layers that have none.
        split_concatenations: layers that read a concatenation are sums of two, each with its own
            levels and steps.
        power_of_two: steps of single channels, by vote; None is one step for a tensor.
        tables: which steps share an activation range.
        temporal_rounding: how the rounding of the temporal block is learned, on its features alone
            and before all others; None learns it with the blocks around it, if at all.
        rounding: how the rounding of weights is learned before training; None is to nearest.
        cache: temporal features in a table instead of the layers that make them; None keeps those.
        bias_correction: the mean error of the prediction, by step and channel, becomes its bias; of
            a trained model instead of one number for a step.
        training: how the quantised model learns from the full-precision one.
        layers: rules for single layers; of several that match one the last counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    summary: str
    weight_form: WeightForm
    allocation: Allocation
    smoothing: bool
    calibration_images: int = Field(32, ge=1, le=4096)
    guidance: float = Field(1.0, ge=0, le=1000)
    eta: float | None = Field(None, ge=0, le=1000)
    scaling: ScalingChoices | None = None
    split_concatenations: bool = False
    power_of_two: PowerOfTwoChoices | None = None
    tables: TableSteps = TableSteps.PER_STEP
    temporal_rounding: RoundingChoices | None = None
    rounding: RoundingChoices | None = None
    cache: CacheChoices | None = None
    bias_correction: bool = False
    training: TrainingChoices = TrainingChoices()
    layers: tuple[LayerRule, ...] = Field((), max_length=10_000)

    @property
    def is_reconstructed(self) -> bool:
        """Whether something is learned, or voted for, before training."""
        learned = (self.scaling, self.power_of_two, self.temporal_rounding, self.rounding)
        return any(stage is not None for stage in learned)

    @property
    def learns_rounding(self) -> bool:
        """Whether codes other than the nearest are learned before training."""
        return self.rounding is not None or self.temporal_rounding is not None

    @property
    def splits_layers(self) -> bool:
        """Whether layers may become sums of parts."""
        return self.split_concatenations or self.power_of_two is not None

    @property
    def walks_again(self) -> bool:
        """Whether what calibration walked is needed behind it."""
        return self.is_reconstructed or self.splits_layers or self.bias_correction

    @property
    def takes_long(self) -> bool:
        """Whether something is learned at all, so that a run that was stopped can be resumed."""
        return self.is_reconstructed or self.training.updates > 0

    def trained_for(self, updates: int) -> Recipe:
        """The same recipe with another number of updates; 0 leaves training out."""
        training = self.training.model_copy(update={"updates": updates})
        return self.model_copy(update={"training": training})


def require_consistent(recipe: Recipe) -> None:
    """Raise RecipeError where one choice would undo another."""
    training = recipe.training
    if not training.updates:
        return
    if recipe.tables is TableSteps.SHARED:
        raise RecipeError(
            "Shared activation tables cannot be trained",
            where="tables, training.updates",
            why="Training moves the range of every step by itself",
            fix="Take tables: per-step, or --train-steps 0",
        )
    keeps_rounding = training.trained is Trained.FULL or (
        training.low_rank_base is LowRankBase.QUANTIZED
        and training.low_rank_start is LowRankStart.ZERO
    )
    if recipe.learns_rounding and not keeps_rounding:
        raise RecipeError(
            "The rounding that is learned would be lost in training",
            where="rounding, training.low_rank_start",
            why="Its branches begin with what the rounding has changed",
            fix="Leave rounding and temporal_rounding out, or train with low_rank_base: quantized "
            "and low_rank_start: zero, or with trained: full",
        )


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
