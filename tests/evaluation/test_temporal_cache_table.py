"""The table of what the cache takes from a graph, on a small model."""

import pytest

from mpq_export.evaluation.literature import LiteratureModel
from mpq_export.evaluation.temporal_cache_table import measure, table

CONFIG = {
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "layers_per_block": 1, "block_out_channels": [8, 16], "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
}  # fmt: skip


@pytest.mark.slow
def test_layers_and_nodes_go_and_a_table_comes(tmp_path):
    row = measure(LiteratureModel("tiny", CONFIG, published=0), tmp_path, 2)
    assert row.features == 8
    assert row.plain.layers - row.cached.layers == 10
    assert row.cached.nodes < row.plain.nodes - 10
    widths = 8 + 16 + 16 * 2 + 16 * 2 + 8 * 2
    assert row.table_bytes == widths * (20 + 8)
    linears = (8 * 32 + 32) + (32 * 32 + 32) + 33 * widths
    assert row.removed_parameters == linears
    assert len(row.plain.ms) == len(row.cached.ms) == 2
    assert "| tiny |" in table([row])
