"""Bytes and average bits of a bundle, the same numbers wherever they are reported."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle import WEIGHTS, Bundle
from ..core.integer_reference import PackedLayer
from ..lowering.targets import MODEL


@dataclass(frozen=True)
class SizeReport:
    """Average bits count planes per weight, without scales; bytes count everything stored.

    ``average_weight_bits`` is over the N-bit layers, ``average_weight_bits_all`` over all
    quantised layers. ``lowered_bytes`` is by lowered target. ``features_cached`` temporal features
    are a table of ``feature_bytes``, for which ``layers_removed`` are not there.
    """

    average_weight_bits: float
    average_weight_bits_all: float
    fp32_bytes: int
    packed_bytes: int
    lowered_bytes: dict[str, int]
    layers_quantized: int
    layers_eight_bit: int
    layers_kept: int
    features_cached: int
    feature_bytes: int
    layers_removed: int


def size_report(bundle: Bundle) -> SizeReport:
    """Measure a bundle on disk."""
    eight_bit, temporal = bundle.quantization.eight_bit, bundle.quantization.temporal
    requested = [layer for name, layer in bundle.layers.items() if name not in eight_bit]
    models = sorted((bundle.path / "onnx").glob(f"*/{MODEL}"))
    return SizeReport(
        average_weight_bits=_average_bits(requested),
        average_weight_bits_all=_average_bits(list(bundle.layers.values())),
        fp32_bytes=4 * bundle.quantization.full_precision_parameters,
        packed_bytes=(bundle.path / WEIGHTS).stat().st_size,
        lowered_bytes={
            model.parent.name: sum(path.stat().st_size for path in model.parent.glob(f"{MODEL}*"))
            for model in models
        },
        layers_quantized=len(bundle.layers),
        layers_eight_bit=len(eight_bit),
        layers_kept=len(bundle.quantization.kept),
        features_cached=0 if temporal is None else len(temporal.features),
        feature_bytes=0 if bundle.features is None else bundle.features.nbytes,
        layers_removed=0 if temporal is None else len(temporal.removed),
    )


def _average_bits(layers: list[PackedLayer]) -> float:
    """Planes per weight."""
    weights = sum(layer.weight.rows * layer.weight.columns for layer in layers)
    planes = sum(int(layer.weight.plane_rows.sum()) * layer.weight.columns for layer in layers)
    return planes / weights if weights else 0.0
