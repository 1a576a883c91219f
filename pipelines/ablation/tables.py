"""The columns of a part's table, by what its cells are measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .grid import Measure
from .rows import ERROR, FRECHET, UNPAIRED_SHARE, Row


@dataclass(frozen=True)
class Column:
    """A heading, and a row's text under it."""

    heading: str
    text: Callable[[Row], str]


def markdown_table(rows: Sequence[Row], measure: Measure) -> list[str]:
    """Lines of a table of the rows that were measured, without columns that none of them has."""
    done = [row for row in rows if row.done]
    columns = tuple(c for c in _COLUMNS[measure] if any(c.text(row) for row in done))
    if len({row.family for row in rows}) > 1 and any(row.label != row.family for row in rows):
        columns = (Column("model", lambda row: row.family), *columns)
    lines = [_line([column.heading for column in columns]), "|" + "---|" * len(columns)]
    return lines + [_line([column.text(row) for column in columns]) for row in done]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _mean(name: str, form: str, noise: str | None = None) -> Callable[[Row], str]:
    """Mean with the spread over seeds, or for one seed with its own noise, if that is known."""

    def text(row: Row) -> str:
        mean, spread = row.mean(name), row.spread(name)
        if mean is None:
            return ""
        if spread is not None:
            return f"{mean:{form}} ± {spread:{form}}"
        own = row.mean(noise) if noise else None
        return f"{mean:{form}}" if own is None else f"{mean:{form}} (± {own:{form}})"

    return text


def _seeds(row: Row) -> str:
    return ", ".join(str(entry.cell.seed) for entry in row.done)


def _of_fp32(row: Row) -> str:
    packed, whole = row.mean("packed_bytes"), row.mean("fp32_bytes")
    return f"{packed / whole:.1%}" if packed and whole else ""


def _nodes(row: Row) -> str:
    figures = row.first or {}
    return f"{figures['nodes_exact']} of {figures['nodes']}"


def _seconds(row: Row) -> str:
    """Of one training; those that were stopped in between say so."""
    stopped = any(entry.value("attempts") != 1 for entry in row.done)
    return _mean("making_seconds", ".0f")(row) + (" (in pieces)" if stopped else "")


_NAMES = (
    Column("bits", lambda row: row.bits),
    Column("", lambda row: row.label),
)
_TRAINED = (Column("trained", lambda row: row.weights), Column("seeds", _seeds))
_SIZE = (
    Column("bytes", _mean("packed_bytes", ",.0f")),
    Column("of fp32", _of_fp32),
    Column("bits per weight", _mean("average_weight_bits_all", ".2f")),
    Column("seconds", _seconds),
    Column("of one core", _mean("computing_seconds", ".0f")),
)
_COLUMNS: dict[Measure, tuple[Column, ...]] = {
    Measure.IMAGES: (
        *_NAMES,
        *_TRAINED,
        Column("FD to fp32", _mean(FRECHET, ".3f", f"{FRECHET}_noise")),
        Column("of unpaired", _mean(UNPAIRED_SHARE, ".1%")),
        Column("FD to data", _mean("frechet_data", ".3f")),
        Column("accuracy", _mean("accuracy", ".1%")),
        Column("PSNR (dB)", _mean("psnr_full_precision", ".1f")),
        Column("noise error", _mean(ERROR, ".3f")),
        Column("peak loss", _mean("loss_peak", ".3g")),
        Column("last loss", _mean("loss_last", ".3g")),
        *_SIZE,
    ),
    Measure.PREDICTIONS: (
        *_NAMES,
        Column("seeds", _seeds),
        Column("noise error", _mean(ERROR, ".4f")),
        *_SIZE,
    ),
    Measure.DEPLOYMENT: (
        *_NAMES,
        *_TRAINED,
        Column("exact nodes", _nodes),
        Column("FD to fp32, ONNX Runtime", _mean(FRECHET, ".3f")),
        Column("FD to fp32, torch", _mean(f"{FRECHET}_torch", ".3f")),
        Column("noise of the difference", _mean("frechet_difference_noise", ".3f")),
        Column("FD between them", _mean("frechet_torch", ".3f")),
        Column("PSNR to fp32 (dB), ONNX Runtime", _mean("psnr_full_precision", ".2f")),
        Column("PSNR to fp32 (dB), torch", _mean("psnr_full_precision_torch", ".2f")),
    ),
}
