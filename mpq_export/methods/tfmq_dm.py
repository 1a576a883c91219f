"""TFMQ-DM (arXiv 2311.16503) and its extension (2407.19547): the temporal block's rounding is
learned on its features alone, that of other blocks on their outputs; ranges per step; features in a
table where that is nearer."""

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from ..reconstruction.choices import RoundingChoices
from ..temporal.choices import CacheChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="tfmq-dm",
        summary="uniform rounding, learned block by block, temporal features cached; no training",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.EQUAL,
        smoothing=False,
        temporal_rounding=RoundingChoices(iterations=1000, samples=640, batch=32),
        rounding=RoundingChoices(),
        cache=CacheChoices(),
    )
)
