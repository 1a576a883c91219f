"""EfficientDM (arXiv 2310.03270): uniform grids, equal bits, low-rank training of stored weights.

Activation scales per sampling step are every method's here. Smoothing is MPQ-DM's addition, not
EfficientDM's.
"""

from ..core.bit_allocation import Allocation
from ..core.low_rank_form import LowRankBase, LowRankStart
from ..core.weight_form import WeightForm
from ..training.choices import RelationKind, Trained, TrainingChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="efficientdm",
        summary="uniform planes, equal bits, low-rank training",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.EQUAL,
        smoothing=False,
        training=TrainingChoices(
            updates=700,
            trained=Trained.LOW_RANK,
            low_rank_base=LowRankBase.QUANTIZED,
            low_rank_start=LowRankStart.ZERO,
            relation=RelationKind.NONE,
            output_bias=False,
        ),
    )
)
