"""A layer that ran against the numpy reference, for the inputs it really had: equal, or how far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..core.integer_reference import PackedLayer, add_residual, run_layer

LayerFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class NodeResult:
    """One node over all fed inputs.

    Attributes:
        name: the layer's module name.
        equal: whether every output equals the reference exactly.
        differing: share of output elements that differ.
        largest_difference: greatest absolute difference.
        not_finite: share of output elements that are infinite or NaN: float16 ends at 65504.
        output_snr_db: the node's output against the full-precision layer on the same input, signal
            to noise; None where no full-precision layer was given.
    """

    name: str
    equal: bool
    differing: float
    largest_difference: float
    not_finite: float
    output_snr_db: float | None


@dataclass(frozen=True)
class LayerUse:
    """One run of a layer: its input and output, in one float type, the step, and what was added."""

    x: np.ndarray
    y: np.ndarray
    step_index: int
    residual: np.ndarray | None = None


def compare_layer(
    name: str,
    layer: PackedLayer,
    uses: Iterable[LayerUse],
    original: LayerFunction | None = None,
) -> NodeResult:
    """What all runs of a layer come to, as bits: NaN equals itself and -0 is not 0.

    Args:
        name: the layer's module name.
        layer: the layer.
        uses: its runs.
        original: the full-precision layer, to measure quantisation noise.
    """
    differing, infinite, elements, largest, signal, noise = 0, 0, 0, 0.0, 0.0, 0.0
    for use in uses:
        x, y = use.x, use.y
        with np.errstate(over="ignore"):
            own = run_layer(layer, x, use.step_index).output.astype(y.dtype)
        expected = add_residual(own, use.residual)
        bits = np.dtype(f"u{y.dtype.itemsize}")
        wrong = y.view(bits) != expected.view(bits)
        infinite += int((~np.isfinite(y)).sum())
        differing, elements = differing + int(wrong.sum()), elements + y.size
        if wrong.any():
            largest = max(largest, float(np.nan_to_num(np.abs(y - expected), nan=np.inf).max()))
        if original is not None:
            full = original(x.astype(np.float32)).astype(np.float64)
            added = 0 if use.residual is None else use.residual.astype(np.float64)
            signal += float(np.square(full).sum())
            noise += float(np.square(full + added - y).sum())
    snr = None
    if original is not None:
        snr = 10 * float(np.log10(max(signal, 1e-300) / max(noise, 1e-300)))
    share = 1 / max(1, elements)
    return NodeResult(name, differing == 0, differing * share, largest, infinite * share, snr)
