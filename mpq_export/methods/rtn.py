"""Rounding to nearest: uniform grids, every row with the same bits. The baseline."""

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="rtn",
        summary="uniform rounding, equal bits",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.EQUAL,
        smoothing=False,
    )
)
