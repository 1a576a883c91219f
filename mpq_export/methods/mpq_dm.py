"""MPQ-DM (arXiv 2412.11549): uniform grids, mixed bits by kurtosis, smoothing; without training."""

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="mpq-dm",
        summary="uniform planes, rows mixed by kurtosis, smoothing",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.KURTOSIS,
        smoothing=True,
    )
)
