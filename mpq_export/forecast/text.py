"""A forecast as plain text, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..methods.plan import LayerPlan
from .cost import CostForecast, Span
from .export import ExportForecast
from .reconstruction import ReconstructionForecast
from .size import SizeForecast
from .training import TrainingForecast


def forecast_text(forecast: ExportForecast) -> str:
    """The plan layer by layer, what stays in floating point, and the totals."""
    parts = [
        plan_text(forecast.plan, forecast.size),
        kept_text(forecast.plan),
        totals_text(forecast),
    ]
    return "\n\n".join(part for part in parts if part)


def plan_text(plan: LayerPlan, size: SizeForecast) -> str:
    """One line per quantised layer, with the reason where its bits are not those asked for."""
    lines = [("layer", "kind", "weights", "bits", "bytes", "because")]
    for layer in size.layers:
        because = plan.eight_bit.get(layer.name) or plan.overridden.get(layer.name, "")
        if layer.parts > 1:
            because = "; ".join(part for part in (because, f"sum of {layer.parts}") if part)
        lines.append(
            (
                layer.name,
                layer.kind,
                f"{layer.weights:,}",
                str(layer.bits),
                f"{layer.bytes:,}",
                because,
            )
        )
    return _columns(lines, right=(2, 4))


def kept_text(plan: LayerPlan) -> str:
    """One line per module that stays in floating point, with the reason."""
    return _columns([("in floating point", "because"), *plan.kept.items()]) if plan.kept else ""


def totals_text(forecast: ExportForecast) -> str:
    """Bytes, time and memory of the whole export."""
    size = forecast.size
    layers = sum(layer.bytes for layer in size.layers)
    lines = [
        f"weights.safetensors: {bytes_text(size.packed_bytes)}, of fp32's "
        f"{bytes_text(size.fp32_bytes)} {size.packed_bytes / size.fp32_bytes:.1%}: "
        f"{len(size.layers)} packed layers {bytes_text(layers)}, floating point "
        f"{bytes_text(size.floating_bytes)}, tables and header "
        f"{bytes_text(size.table_bytes + size.header_bytes)}."
        + (f" Votes may add up to {bytes_text(size.voted_bytes)}." if size.voted_bytes else ""),
        f"ONNX model for ort: about {bytes_text(size.ort_bytes)}.",
    ]
    if forecast.cost is None:
        lines.append(f"Time and memory are not known: {forecast.cost_unknown}.")
    else:
        lines.append(_cost_text(forecast.cost))
    if forecast.reconstruction is not None:
        lines += _reconstruction_text(forecast.reconstruction)
    if forecast.training is not None:
        lines.append(_training_text(forecast.training))
    return "\n".join(lines)


def _cost_text(cost: CostForecast) -> str:
    return (
        f"On this machine: calibration {_time_text(cost.calibrate_seconds)}, quantisation "
        f"{_time_text(cost.quantize_seconds)}, lowering not counted; peak memory about "
        f"{bytes_text(cost.peak_bytes)}."
    )


def _reconstruction_text(reconstruction: ReconstructionForecast) -> list[str]:
    stages = (
        ("scales of channels", reconstruction.scaling),
        ("votes", reconstruction.votes),
        ("rounding of the temporal block", reconstruction.temporal),
        ("rounding", reconstruction.rounding),
    )
    parts = [f"{name} {_time_text(span)}" for name, span in stages if span is not None]
    if not parts:
        return []
    return [
        f"Learning on its CPU before training: {', '.join(parts)}; peak memory about "
        f"{bytes_text(reconstruction.peak_bytes)}."
    ]


def _training_text(training: TrainingForecast) -> str:
    return (
        f"Training on its CPU, in one process: {training.updates:,} updates of "
        f"{training.images_per_update} images {_time_text(training.seconds)}; peak memory about "
        f"{bytes_text(training.peak_bytes)}. --train-steps 0 leaves it out."
    )


def bytes_text(count: float) -> str:
    """Bytes with a unit of 1000s, three digits."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"


def _time_text(span: Span) -> str:
    unit, size = next(
        (unit, size)
        for unit, size in (("h", 3600), ("min", 60), ("s", 1))
        if span.high >= 2 * size or size == 1
    )
    low, high = (f"{float(f'{value / size:.2g}'):,g}" for value in (span.low, span.high))
    return f"about {low} to {high} {unit}"


def _columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells padded to common widths; columns in ``right`` end together."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
