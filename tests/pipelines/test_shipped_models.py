"""The checkpoints in this repository: small, whole, and good at what they were trained for."""

import pytest
from mpq_export.pipelines.model_report import drawn, shipped_checkpoint
from mpq_export.pipelines.registry import FAMILIES, load_judge

from mpq_export.checkpoints import load_checkpoint

MOST_BYTES = 6_000_000
MOST_PARAMETERS = {"digits": 1.4e6, "digits_dit": 1.2e6, "photos": 2.5e6}
LEAST_ACCURACY = {"digits": 0.95, "digits_dit": 0.9, "photos": 0.5}
"""Of 40 images in 10 steps; of photographs 0.77 of 500 in 20 steps. Chance is 0.1."""
SHIPPED = [family.name for family in FAMILIES.values() if family.judge]


@pytest.mark.parametrize("family", SHIPPED)
def test_a_shipped_model_is_small_and_draws_what_is_asked(family):
    folder = shipped_checkpoint(family)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MOST_BYTES
    checkpoint = load_checkpoint(folder)
    assert checkpoint.family == family
    assert checkpoint.notes == ()
    assert sum(p.numel() for p in checkpoint.model.parameters()) <= MOST_PARAMETERS[family]
    images = drawn(checkpoint, 40, 10, 5)
    assert load_judge(family).measure(images, None).accuracy >= LEAST_ACCURACY[family]
