"""MPQ-DMv2 (arXiv 2507.04290): flexible Z-order residual quantisation, low-rank training from
the quantisation error on, and relation distillation with a memory of all timesteps.

Smoothing is left out: without training to follow it raised the digits model's prediction error at
W3A4 and changed nothing elsewhere. With training it may help: on photographs at w2a4, one seed,
it was nearer by less than resampled images differ (``docs/results/ablation_photos_ablation.md``).
Rows are ordered by kurtosis, as published; ordering them by the fall of their output error is
offered as a recipe choice, but lost at every width measured (``docs/results/allocation.md``).
"""

from ..core.bit_allocation import Allocation
from ..core.low_rank_form import LowRankBase, LowRankStart
from ..core.weight_form import WeightForm
from ..training.choices import RelationKind, Trained, TrainingChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="mpq-dmv2",
        summary="residual planes of order 0, 1, 2 by kurtosis, low-rank training",
        weight_form=WeightForm.RESIDUAL,
        allocation=Allocation.KURTOSIS,
        smoothing=False,
        training=TrainingChoices(
            updates=700,
            trained=Trained.LOW_RANK,
            low_rank_base=LowRankBase.QUANTIZED,
            low_rank_start=LowRankStart.QUANTIZATION_ERROR,
            relation=RelationKind.MEMORY,
        ),
    )
)
