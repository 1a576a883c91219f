"""The size table's code on tiny models, and the literature's models without weights."""

import json
import re

import pytest

from mpq_export.architectures import architecture_of
from mpq_export.core.bit_allocation import KURTOSIS_SHARES
from mpq_export.evaluation import size_table
from mpq_export.evaluation.literature import MODELS, LiteratureModel
from mpq_export.evaluation.size_table import random_bundle, report, size_row
from mpq_export.methods.mpq_dmv2 import RECIPE
from mpq_export.methods.plan import plan_layers
from mpq_export.precision import BitSpec

TINY = (
    LiteratureModel(
        "tiny UNet",
        {
            "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3,
            "layers_per_block": 1, "block_out_channels": [32, 64], "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "attention_head_dim": 8,
        },
        published=0,
    ),
    LiteratureModel(
        "tiny DiT",
        {
            "_class_name": "DiTTransformer2DModel", "sample_size": 8, "num_layers": 1,
            "num_attention_heads": 2, "attention_head_dim": 16, "num_embeds_ada_norm": 10,
        },
        published=0,
        remark="it is tiny",
    ),
)  # fmt: skip


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_bytes_are_forecast_and_near_n_bits(entry, bits):
    row = size_row(entry, BitSpec(bits, 8))
    assert row.measured_bytes == row.forecast_bytes
    assert row.measured_bytes == row.expected_bytes + row.parts.padding
    assert 0 <= row.deviation < 0.03
    assert row.ideal_bytes < row.expected_bytes < row.fp32_bytes


def test_rows_are_mixed_as_the_default_method_mixes_them():
    entry, bits = TINY[0], BitSpec(3, 8)
    model = entry.build()
    plan = plan_layers(model, architecture_of(entry.config), bits, RECIPE)
    bundle = random_bundle(entry, model, plan, bits)
    for name, layer in bundle.layers.items():
        counts = layer.weight.plane_rows
        assert counts.sum() == plan.layers[name].bits.weight * layer.weight.rows
        if name not in plan.eight_bit:
            moved = round(size_table._SHARE * layer.weight.rows)
            assert counts.tolist()[2:] == [layer.weight.rows - moved, moved], name
    assert 0 < size_table._SHARE < max(KURTOSIS_SHARES)


def test_the_report_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(size_table, "MODELS", TINY)
    said = []
    rows = report(TINY, tmp_path, said.append)
    assert len(rows) == len(said) == 6
    data = json.loads((tmp_path / "size_table.json").read_text())
    assert [row["bits"] for row in data["rows"]] == 2 * ["w2a8", "w3a8", "w4a8"]
    text = (tmp_path / "size_table.md").read_text()
    assert len(re.findall(r"^\| tiny UNet \|.*\| equal \|$", text, re.MULTILINE)) == 3
    assert "- tiny DiT: it is tiny." in text


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_the_literatures_models_have_the_published_parameters(entry):
    model = entry.build()
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    if entry.name.startswith("DiT"):
        # The embeddings of time and class that 27 further blocks have of their own.
        own = sum(p.numel() for p in model.transformer_blocks[0].norm1.emb.parameters()) / 1e6
        count -= 27 * own
    assert count == pytest.approx(entry.published, rel=0.004)
