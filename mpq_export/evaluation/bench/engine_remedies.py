"""What would take a cost away from a step of an engine of TensorRT."""

from __future__ import annotations

from collections.abc import Sequence

from .cost_kinds import Cost
from .profile import LayerCost, Profile


def engine_remedy(cost: Cost, profile: Profile) -> str:
    """A sentence or two, with figures of the profile where they decide."""
    if cost is Cost.PRODUCTS:
        return _of_products(profile.layers)
    if cost in (Cost.COPIES, Cost.CONVERSIONS):
        return _of_copies(profile)
    return _REMEDIES[cost]


def _of_products(layers: Sequence[LayerCost]) -> str:
    known = [layer for layer in layers if layer.macs_per_ns and layer.macs]
    if not known:
        return "Fewer products: a smaller model, fewer steps."
    slowest = min(known, key=lambda layer: layer.macs_per_ns or 0.0)
    best = max(known, key=lambda layer: layer.macs_per_ns or 0.0)
    share = sum(layer.share for layer in layers if layer.weights.startswith("packed"))
    said = f"Packed layers take {share:.0%} of the step. " if share else ""
    if slowest is best:
        return f"{said}A larger batch fills the GPU better."
    return (
        f"{said}{best.layer} ({best.weight}) reaches {best.macs_per_ns:.1f} MAC/ns, "
        f"{slowest.layer} ({slowest.weight}) {slowest.macs_per_ns:.1f}: layers that are too small "
        "for the GPU's multiprocessors wait for memory and launches. A larger batch fills them."
    )


def _of_copies(profile: Profile) -> str:
    copies = sum(layer.copies for layer in profile.layers)
    around = f"{copies} of them are made for quantised layers. " if copies else ""
    return (
        f"{around}TensorRT moves data where two neighbours want other layouts or types, and for "
        "joins and transpositions. Packed convolutions take channels last where their channels are "
        "whole eights in float16; other widths, and linear layers, take rows. One type throughout, "
        "float16, and such widths spare most copies."
    )


_REMEDIES = {
    Cost.NORMS: (
        "They stay in floating point, and TensorRT fuses them with their neighbours, but not "
        "across a packed layer, which is a plugin. Memory bounds them: only fewer or smaller ones "
        "help."
    ),
    Cost.ATTENTION: (
        "It is no product with weights, so quantising does not shorten it; fewer tokens do, or "
        "float16, in which TensorRT has fused attention for more shapes."
    ),
    Cost.ELEMENTWISE: (
        "TensorRT fuses what lies between two packed layers into few kernels, but not into the "
        "layers, which are plugins. float16 halves what they read and write."
    ),
    Cost.BETWEEN: (
        "Copies of images to the GPU and back, launches, and the profiler's events: a profiled "
        "step is launched layer by layer. In use it is one CUDA graph; what ms per step is below "
        "this figure, that has spared already. A larger batch shares the rest among more images."
    ),
}
