"""Average bits and bytes."""

import pytest

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.evaluation.size import size_report


def test_sizes_are_those_on_disk_and_bits_those_stored(lowered_folder, pipeline_folder):
    bundle = read_bundle(lowered_folder)
    report = size_report(bundle)
    model = load_checkpoint(pipeline_folder).model
    assert report.fp32_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert report.packed_bytes == (lowered_folder / "weights.safetensors").stat().st_size
    assert report.packed_bytes < 0.6 * report.fp32_bytes
    assert set(report.lowered_bytes) == {"ort", "onnx", "trt", "trt-int8"}
    assert report.average_weight_bits == pytest.approx(3)
    eight = [bundle.layers[name].weight for name in bundle.quantization.eight_bit]
    rest = [
        layer.weight
        for name, layer in bundle.layers.items()
        if name not in bundle.quantization.eight_bit
    ]
    count8, count3 = (sum(w.rows * w.columns for w in group) for group in (eight, rest))
    expected = (8 * count8 + 3 * count3) / (count8 + count3)
    assert report.average_weight_bits_all == pytest.approx(expected)
    assert (report.layers_quantized, report.layers_eight_bit) == (len(bundle.layers), 4)
    assert report.layers_kept == len(bundle.quantization.kept)
