"""The benchmark of large exports, on a small model."""

import pytest

from mpq_export.evaluation.literature import LiteratureModel
from mpq_export.evaluation.scale_benchmark import measure, table

TINY = LiteratureModel(
    "tiny DiT",
    {
        "_class_name": "DiTTransformer2DModel", "sample_size": 8, "in_channels": 4,
        "out_channels": 8, "num_layers": 1, "patch_size": 2, "num_attention_heads": 2,
        "attention_head_dim": 12, "num_embeds_ada_norm": 10,
    },
    published=0,
)  # fmt: skip


@pytest.mark.slow
def test_a_model_goes_the_whole_way(tmp_path):
    row = measure(TINY, tmp_path)
    assert row.nodes == row.nodes_exact > 5
    assert 0 < row.packed_bytes < row.fp32_bytes
    assert row.export_peak_bytes > 100e6
    assert "| tiny DiT |" in table([row])
    assert f"{row.nodes} of {row.nodes}" in table([row])
