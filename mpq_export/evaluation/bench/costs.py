"""What a step's time is spent on, in words, and what would take it away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..profiling.peak import FLOAT32, INT8
from ..profiling.profiles import NodeTime
from .cost_kinds import Cost, cost_of
from .engine_remedies import engine_remedy
from .profile import GPU, MOST_TAKEN_OFF, LayerCost, Profile, ProfiledCost
from .rows import Kind

_SHOWN = 3
_FAR_FROM_PEAK, _NEAR_PEAK = 0.25, 0.6


def biggest_costs(
    nodes: Sequence[tuple[NodeTime, str | None]], layers: Sequence[LayerCost], run_ms: float
) -> list[ProfiledCost]:
    """The three that take most, first the largest; their remedies are not said yet.

    Args:
        nodes: all of a step's, with the module that each belongs to or None.
        layers: the modules that are quantised in bundles.
        run_ms: of the whole step.
    """
    by_cost: defaultdict[Cost, float] = defaultdict(float)
    names = {layer.layer for layer in layers}
    for node, module in nodes:
        by_cost[cost_of(node, module in names)] += node.ms
    by_cost[Cost.BETWEEN] = max(0.0, run_ms - sum(node.ms for node, _ in nodes))
    ranked = sorted(by_cost.items(), key=lambda item: -item[1])[:_SHOWN]
    return [
        ProfiledCost(title=cost.value, ms=ms, share=ms / run_ms, remedy="")
        for cost, ms in ranked
        if ms > 0
    ]


def best_rates(profiles: Iterable[Profile]) -> dict[str, float]:
    """MAC/ns of the processor's layer that reached most, by type of product."""
    best: dict[str, float] = {}
    for layer in (layer for one in profiles if one.device != GPU for layer in one.layers):
        if layer.macs_per_ns is not None:
            best[layer.arithmetic] = max(best.get(layer.arithmetic, 0.0), layer.macs_per_ns)
    return best


def rated(profile: Profile, kind: Kind, peaks: Mapping[str, float]) -> Profile:
    """A profile with its layers' shares of the processor's peaks in MAC/ns, by type of product, and
    what would remove its costs."""
    if profile.device == GPU:
        costs = [
            cost.model_copy(update={"remedy": engine_remedy(Cost(cost.title), profile)})
            for cost in profile.costs
        ]
        return profile.model_copy(update={"costs": costs})
    layers = [
        layer.model_copy(update={"of_peak": _share(layer, peaks)}) for layer in profile.layers
    ]
    held = profile.model_copy(update={"peaks_macs_per_ns": dict(peaks), "layers": layers})
    costs = [
        cost.model_copy(update={"remedy": _remedy(Cost(cost.title), kind, held)})
        for cost in profile.costs
    ]
    return held.model_copy(update={"costs": costs})


def _share(layer: LayerCost, peaks: Mapping[str, float]) -> float | None:
    peak = peaks.get(layer.arithmetic)
    return None if layer.macs_per_ns is None or not peak else layer.macs_per_ns / peak


def _remedy(cost: Cost, kind: Kind, profile: Profile) -> str:
    if cost is Cost.PRODUCTS:
        return _of_products(kind, profile)
    if cost is Cost.BETWEEN:
        nodes = sum(operator.nodes for operator in profile.operators)
        return (
            f"{nodes} nodes are started one after another. Fewer nodes help, or more work in "
            "each: a larger batch."
        )
    return _REMEDIES[cost][kind is Kind.BUNDLE]


def _of_products(kind: Kind, profile: Profile) -> str:
    main = FLOAT32 if kind is Kind.FP32 else INT8
    known = [
        layer
        for layer in profile.layers
        if layer.of_peak and layer.macs and layer.arithmetic == main
    ]
    unrated = sum(layer.profiler_share > MOST_TAKEN_OFF for layer in profile.layers)
    short = (
        f"{unrated} of {len(profile.layers)} layers are too short to have a rate. "
        if unrated
        else ""
    )
    if not known:
        return f"{short}Fewer products: a smaller model, fewer steps."
    macs = sum(layer.macs or 0 for layer in known)
    at_peak = sum(_product_ms(layer) * (layer.of_peak or 0) for layer in known)
    reached = at_peak / sum(_product_ms(layer) for layer in known)
    said = f"They reach {reached:.0%} of the processor's {main} peak over {macs / 1e6:.0f} M MAC. "
    said += short
    if kind is Kind.FP32:
        return said + _of_integers(profile.peaks_macs_per_ns)
    if reached >= _NEAR_PEAK:
        return said + "That is near what kernels reach: only fewer products help."
    worst = max(known, key=lambda layer: _product_ms(layer) * (1 - (layer.of_peak or 0)))
    lost = f"Most is lost in {worst.layer} ({worst.weight}), at {worst.of_peak:.0%}."
    if reached < _FAR_FROM_PEAK or kind is not Kind.BUNDLE:
        return said + (
            "Small layers do not fill the kernels: a larger batch or wider layers come nearer to "
            f"it. {lost}"
        )
    return said + (
        "The rest goes into what surrounds them in a layer, its activations made integers and its "
        f"weights unpacked, which a larger batch or wider layers share among more. {lost}"
    )


def _of_integers(peaks: Mapping[str, float]) -> str:
    """What they could give instead of float32."""
    ratio = peaks[INT8] / peaks[FLOAT32]
    return (
        f"The peak of int8 is {ratio:.1f} times as high: the int8 row and the bundles say how much "
        "of that is reached on this model."
    )


def _product_ms(layer: LayerCost) -> float:
    """Without what only moves or converts data in it."""
    return (layer.macs or 0) / (1e6 * (layer.macs_per_ns or 1))


_REMEDIES = {
    Cost.CONVERSIONS: (
        "They lie around every quantised node. Operators that take and give floating point and "
        "convert inside, as a bundle's packed nodes do, have none.",
        "The portable form converts in nodes of its own; --runtime ort converts inside the layers.",
    ),
    Cost.COPIES: (
        "Data is turned or joined between nodes; a fused form, or one layout for all nodes, would "
        "spare it.",
        "Upsampling, skip connections and heads are moved by ONNX Runtime's own nodes, which read "
        "and write all data once more; fusing them into the layers that read them would spare it.",
    ),
    Cost.NORMS: (
        "Normalisations run in float32 whatever the weights are. A fused normalisation with the "
        "activation after it, as bundles have, takes a fraction.",
        "They stay in float32, and are fused with the activation after them already; memory bounds "
        "them, so only fewer or smaller ones help.",
    ),
    Cost.ATTENTION: (
        "Scores and their softmax are written to memory and read again; fused attention, as "
        "bundles have, keeps them in the caches.",
        "It is no product with weights, so quantising does not shorten it; fewer tokens do, or "
        "attention at fewer resolutions.",
    ),
    Cost.ELEMENTWISE: (
        "Sums and activations run as nodes of their own in float32; fused into the layers before "
        "them they would cost nothing.",
        "What is not fused into a layer runs in float32 as a node of its own.",
    ),
}
"""For baselines, and for bundles."""
