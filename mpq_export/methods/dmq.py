"""DMQ (arXiv 2507.12933): learned equivalent scaling with adaptive weights of timesteps,
power-of-two scales of the channels of skip connections, and learned rounding; no training."""

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from ..reconstruction.choices import PowerOfTwoChoices, RoundingChoices, ScalingChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="dmq",
        summary="uniform rounding, learned scales of channels, learned rounding, no training",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.EQUAL,
        smoothing=False,
        scaling=ScalingChoices(),
        split_concatenations=True,
        power_of_two=PowerOfTwoChoices(),
        rounding=RoundingChoices(),
    )
)
