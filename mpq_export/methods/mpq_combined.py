"""MPQ-DMv2 behind what DMQ and TFMQ-DM do without training.

In this order: temporal features into a table; equivalent scales that are learned with the residual,
mixed planes in their loss; rows ordered by kurtosis of the scaled weights; power-of-two steps by
votes at the bits that are deployed; MPQ-DMv2's training. Rounding is not learned before training,
which learns it. Every stage is a field of the recipe. DMQ's weights of steps stay out of the
training's loss (``step_power``): they forget the last step, whose error is seen (docs/methods.md).
"""

from ..reconstruction.choices import PowerOfTwoChoices, ScalingChoices
from ..temporal.choices import CacheChoices
from . import mpq_dmv2
from .recipe import register

RECIPE = register(
    mpq_dmv2.RECIPE.model_copy(
        update={
            "method": "mpq-combined",
            "summary": "mpq-dmv2 with learned scales, power-of-two steps and cached features",
            "scaling": ScalingChoices(),
            "split_concatenations": True,
            "power_of_two": PowerOfTwoChoices(),
            "cache": CacheChoices(),
        }
    )
)
