"""The recommended recipe: free planes, rows mixed by kurtosis, and training of every weight.

Free planes had the least error of all forms without training (``docs/results/allocation.md``).
"""

from ..core.bit_allocation import Allocation
from ..core.weight_form import WeightForm
from ..training.choices import RelationKind, Trained, TrainingChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="mpq",
        summary="free planes mixed by kurtosis, every weight trained",
        weight_form=WeightForm.FREE,
        allocation=Allocation.KURTOSIS,
        smoothing=False,
        training=TrainingChoices(updates=700, trained=Trained.FULL, relation=RelationKind.NONE),
    )
)
