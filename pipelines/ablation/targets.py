"""What was asked of the results before they were there, beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .grid import AS_LONG, TRAINED_METHODS
from .rows import FRECHET, PSNR, UNPAIRED_SHARE, WITHIN_NOISE, Row

SHARE_BY_BITS = {"w4a8": 0.06, "w3a6": 0.06, "w3a4": 0.12, "w2a4": 0.18}
"""Greatest Frechet distance to full precision, as a share of that between two unpaired sets."""
LEAST_PSNR = {"w4a8": 35.8, "w3a6": 36.5, "w3a4": 32.4, "w2a4": 31.7}
"""dB to full precision on the digits UNet: 1 dB below the best form of an earlier trial on another
digits UNet, also 700 updates of 32 images."""
_WINNER, _OTHERS, _ADVANTAGE = "mpq-dmv2", ("mpq-dm", "efficientdm"), 0.25
_ORDERS = (("dmq", "rtn"), ("dmq", "tfmq-dm"), ("tfmq-dm", "rtn"))
_NOT_YET = "not measured yet"


@dataclass(frozen=True)
class Target:
    """One demand; ``met`` is None while it cannot be judged, and where what was measured does not
    decide it."""

    what: str
    asked: str
    measured: str
    met: bool | None
    undecided: bool = False

    @property
    def verdict(self) -> str:
        """In a word."""
        return "undecided" if self.undecided else {True: "met", False: "missed", None: ""}[self.met]


def targets_of(part: str, rows: Sequence[Row]) -> list[Target]:
    """All demands on a part; none for parts that only tell."""
    judge = _TARGETS.get(part)
    return judge(rows) if judge else []


def _digits(rows: Sequence[Row]) -> list[Target]:
    return [_share(row) for row in _trained(rows)]


def _digits_unet(rows: Sequence[Row]) -> list[Target]:
    return _digits(rows) + [_psnr(row) for row in _trained(rows)]


def _trained(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.label in TRAINED_METHODS]


def _share(row: Row) -> Target:
    asked, share = SHARE_BY_BITS[row.bits], row.mean(UNPAIRED_SHARE)
    what = f"{row.bits}, {row.label}: distance to full precision, of the unpaired one"
    limit = f"at most {asked:.0%}"
    if share is None:
        return Target(what, limit, _NOT_YET, None)
    return Target(what, limit, f"{share:.2%}", share <= asked)


def _psnr(row: Row) -> Target:
    asked, psnr = LEAST_PSNR[row.bits], row.mean(PSNR)
    what = f"{row.bits}, {row.label}: PSNR to full precision"
    limit = f"at least {asked} dB"
    if psnr is None:
        return Target(what, limit, _NOT_YET, None)
    return Target(what, limit, f"{psnr:.1f} dB", psnr >= asked)


def _photos(rows: Sequence[Row]) -> list[Target]:
    by_label = {row.label: row for row in rows if (row.bits, row.weights) == ("w2a4", "low-rank")}
    return [_advantage(by_label[_WINNER], by_label[other]) for other in _OTHERS]


def _advantage(winner: Row, other: Row) -> Target:
    ours, theirs = winner.mean(FRECHET), other.mean(FRECHET)
    measured, met = _NOT_YET, None
    if ours is not None and theirs is not None:
        below = 1 - ours / theirs
        apart = max(winner.values(FRECHET)) < min(other.values(FRECHET))
        measured = f"{below:.0%} below, seeds {'apart' if apart else 'overlap'}"
        whole = all(len(row.done) == len(row.entries) for row in (winner, other))
        if whole:
            met = below >= _ADVANTAGE and apart
        else:
            measured += f" ({len(winner.done)} and {len(other.done)} seeds so far)"
    return Target(
        f"w2a4 in low rank: {winner.label} below {other.label} in distance to full precision",
        f"at least {_ADVANTAGE:.0%}, every seed below every seed",
        measured,
        met,
    )


def _post_training(rows: Sequence[Row]) -> list[Target]:
    """The orders of the papers: DMQ is best at six bits of activations, TFMQ-DM above plain
    rounding everywhere."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row.family, row.bits), {})[row.label] = row
    orders = [
        (family, own[nearer], own[farther])
        for (family, bits), own in groups.items()
        for nearer, farther in _ORDERS
        if bits == "w4a6" or nearer != "dmq"
    ]
    return [_order(family, nearer, farther) for family, nearer, farther in orders]


def _order(family: str, nearer: Row, farther: Row) -> Target:
    """By the seeds that both have, once both are whole. Several decide where all agree, one where
    the two are further apart than their noise."""
    what = f"{family} {nearer.bits}: distance to full precision, {nearer.label}"
    limit = f"below {farther.label}"
    pairs = _common(nearer, farther, FRECHET)
    if not pairs:
        return Target(what, limit, _NOT_YET, None)
    measured = ", ".join(f"{statistics.fmean(side):.3f}" for side in zip(*pairs, strict=True))
    if len(pairs) > 1:
        measured += f" over {len(pairs)} seeds"
    if any(len(row.done) < len(row.entries) for row in (nearer, farther)):
        return Target(what, limit, f"{measured} so far", None)
    apart = [theirs - ours for ours, theirs in pairs]
    if len(apart) == 1:
        ((one, other),) = _common(nearer, farther, f"{FRECHET}_noise")
        undecided = abs(apart[0]) <= WITHIN_NOISE * math.hypot(one, other)
    else:
        undecided = min(apart) <= 0 <= max(apart)
    return Target(what, limit, measured, None if undecided else min(apart) > 0, undecided)


def _common(one: Row, other: Row, name: str) -> list[tuple[float, float]]:
    """A figure of two rows for every seed that both have."""
    values = [
        {entry.cell.seed: value for entry in row.done if (value := entry.value(name)) is not None}
        for row in (one, other)
    ]
    return [(values[0][seed], values[1][seed]) for seed in values[0] if seed in values[1]]


def _combination(rows: Sequence[Row]) -> list[Target]:
    """What training alone gives in the time that the combination takes is to be beaten."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row.family, row.bits), {})[row.label] = row
    return [
        _order(family, own["mpq-combined"], own[AS_LONG]) for (family, _), own in groups.items()
    ]


def _deployed(rows: Sequence[Row]) -> list[Target]:
    targets = []
    for row in rows:
        figures = row.first
        nodes = images = _NOT_YET
        exact = within = None
        if figures is not None:
            nodes = f"{figures['nodes_exact']} of {figures['nodes']}"
            exact = figures["nodes_exact"] == figures["nodes"]
            apart = figures[FRECHET] - figures[f"{FRECHET}_torch"]
            images = f"{apart:+.3f}, noise {figures['frechet_difference_noise']:.3f}"
            within = figures["within_noise"]
        name = f"{row.label}, {row.bits}"
        targets.append(Target(f"{name}: nodes equal to the reference", "all", nodes, exact))
        targets.append(
            Target(
                f"{name}: distance to full precision, ONNX Runtime less torch",
                "at most twice the noise",
                images,
                within,
            )
        )
    return targets


_TARGETS: Mapping[str, Callable[[Sequence[Row]], list[Target]]] = {
    "digits": _digits_unet,
    "digits-dit": _digits,
    "photos": _photos,
    "post-training": _post_training,
    "combination": _combination,
    "deployed": _deployed,
}
