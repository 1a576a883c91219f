"""A part's results as pictures: distances by bits, and drawn images row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...files import staged_file
from ..images import grid
from .rows import ERROR, FRECHET, Row
from .targets import SHARE_BY_BITS

_DPI = 110
_ROW_INCHES = 0.3
_QUANTITIES = (
    (FRECHET, "Frechet distance to full precision"),
    (ERROR, "relative noise error"),
)


def write_chart(path: Path, title: str, rows: Sequence[Row], shared_target: bool) -> None:
    """A panel for each family and bit width, a line for each row, a point for each seed.

    Nothing is drawn, and nothing written, where nothing was measured.
    """
    # Without pyplot there is no global state, and no display is looked for.
    from matplotlib.figure import Figure

    done = [row for row in rows if row.done]
    if not done:
        return
    name, meaning = next((q for q in _QUANTITIES if done[0].values(q[0])), _QUANTITIES[0])
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in done:
        panels.setdefault((row.family, row.bits), []).append(row)
    several = len({family for family, _ in panels}) > 1
    most = max(len(own) for own in panels.values())
    size = (3 + 3 * len(panels), 1.6 + _ROW_INCHES * most)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((family, bits), own) in zip(places, panels.items(), strict=True):
        own.reverse()
        for place, row in enumerate(own):
            values = row.values(name)
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.6)
            axes.plot([np.mean(values)], [place], "|", color="black", markersize=14)
        panel = f"{family} {bits}" if several else bits
        axes.set(title=panel, xlabel=meaning, xscale="log", ylim=(-0.6, len(own) - 0.4))
        axes.set_yticks(range(len(own)), [_line_name(row) for row in own])
        axes.grid(axis="x", which="both", alpha=0.25)
        reference = own[0].done[0].reference
        if shared_target and reference and bits in SHARE_BY_BITS:
            target = SHARE_BY_BITS[bits] * reference["frechet_unpaired"]
            axes.axvline(target, color="tab:red", linestyle="--", label="target")
            axes.legend()
    with staged_file(path) as stage:
        figure.savefig(stage, dpi=_DPI, format="png")


def write_samples(path: Path, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """Images ``[N, C, H, W]`` in [0, 1], a named row for each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 0.62 * len(rows)), layout="constrained")
    for axes, (name, images) in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
    ):
        axes.imshow(np.asarray(grid(images, len(images))))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    with staged_file(path) as stage:
        # Names are longer than the layout leaves room for.
        figure.savefig(stage, dpi=_DPI, format="png", bbox_inches="tight")


def _line_name(row: Row) -> str:
    return row.label if row.weights == "none" else f"{row.label}, {row.weights}"
