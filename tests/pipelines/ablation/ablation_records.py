"""Records as runs of cells write them, with figures of the tests' own."""

from dataclasses import replace

import numpy as np
from mpq_export.pipelines.ablation.keys import keys_of
from mpq_export.pipelines.ablation.rows import FRECHET
from mpq_export.pipelines.ablation.store import Record

IMAGES = np.linspace(0, 1, 20 * 256, dtype=np.float32).reshape(20, 1, 16, 16)


def write(store, cell, frechet, **more):
    """A record as a run of the cell writes it."""
    figures = {
        FRECHET: frechet, "frechet_full_precision_noise": 0.125, "frechet_data": 3.5,
        "accuracy": 0.875, "psnr_full_precision": 21.5, "relative_error": 0.25,
        "packed_bytes": 1000, "fp32_bytes": 8000, "average_weight_bits_all": 3.5,
        "making_seconds": 60.0, "attempts": 1, "device": "processor", "machine": {"cores": "2"},
        **more,
    }  # fmt: skip
    store.write(keys_of(cell).result, Record(figures, IMAGES))
    reference = {
        "frechet_data": 2.5, "frechet_unpaired": 4.0, "frechet_unpaired_noise": 0.5,
        "accuracy": 1.0,
    }  # fmt: skip
    store.write(keys_of(cell).reference, Record(reference, IMAGES))


def labelled(cell, label, seed=0, **changes):
    """Methods differ in their recipes too."""
    recipe = cell.recipe.model_copy(update={"method": label})
    return replace(cell, label=label, seed=seed, recipe=recipe, **changes)
