"""MPQ-DM (arXiv 2412.11549): uniform grids, mixed bits by kurtosis, smoothing, a low-rank branch on
the full-precision weight, and relation distillation averaged over two steps."""

from ..core.bit_allocation import Allocation
from ..core.low_rank_form import LowRankBase, LowRankStart
from ..core.weight_form import WeightForm
from ..training.choices import RelationKind, Trained, TrainingChoices
from .recipe import Recipe, register

RECIPE = register(
    Recipe(
        method="mpq-dm",
        summary="uniform planes, rows mixed by kurtosis, smoothing, low-rank training",
        weight_form=WeightForm.UNIFORM,
        allocation=Allocation.KURTOSIS,
        smoothing=True,
        training=TrainingChoices(
            updates=700,
            trained=Trained.LOW_RANK,
            low_rank_base=LowRankBase.FULL_PRECISION,
            low_rank_start=LowRankStart.ZERO,
            relation=RelationKind.TIME_SMOOTHED,
            # 100 times a sum beside a summed error, as published, for samples of three channels.
            relation_weight=33.0,
            output_bias=False,
        ),
    )
)
