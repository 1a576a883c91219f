"""Bytes of the literature's denoisers at 2, 3 and 4 bits, from real bundle files.

    python -m mpq_export.evaluation.size_table --out docs/results

Layers are packed and written by the code that writes every bundle, and read back by the code that
reads it. Only the fit is left out: codes are drawn at random, since bytes depend on how many planes
a row has and not on how well they fit it. Rows have N - 1, N and N + 1 planes by the default
method's rule, with random values in the place of kurtosis.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from torch import nn

from ..architectures import architecture_of
from ..bundle import WEIGHTS, Bundle, read_bundle, write_bundle
from ..bundle_config import LayerConfig, QuantizationConfig
from ..core.bit_allocation import KURTOSIS_SHARES, by_salience
from ..core.integer_reference import PackedLayer, input_channels
from ..core.layers import Quantizable, geometry_of
from ..core.planes import LIMIT, PlaneMatrix, pack, words_per_row
from ..forecast.size import forecast_size, mixes_rows, quantizable
from ..methods.mpq_dmv2 import RECIPE
from ..methods.plan import LayerChoices, LayerPlan, plan_layers
from ..precision import BitSpec
from .literature import MODELS, LiteratureModel
from .machine import describe_machine
from .report_files import machine_line, write_report

STEPS = 20
WIDTHS = tuple(BitSpec(bits, 8) for bits in (2, 3, 4))
_SHARE = KURTOSIS_SHARES[3]
"""Of rows promoted, and as many demoted; any share but 0 takes the same bytes."""
_SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


@dataclass(frozen=True)
class StoredParts:
    """Bytes of a bundle's weights by what they are for, counted from the format's definition.

    ``planes`` are bits of N-bit weights alone, ``eight_bit`` those of 8-bit layers; ``rows`` are
    scales, orders, steps and biases; ``tables`` hold activations; ``padding`` fills the last word
    of each row's plane.
    """

    planes: int
    eight_bit: int
    rows: int
    tables: int
    floating: int
    header: int
    padding: int


@dataclass(frozen=True)
class SizeRow:
    """One model at one width.

    Attributes:
        model: its name.
        parameters: of the diffusers model.
        published: parameters as published, in millions.
        bits: such as ``w4a8``.
        fp32_bytes: parameters at four bytes.
        measured_bytes: the size of ``weights.safetensors`` on disk.
        forecast_bytes: what the forecast says.
        ideal_bytes: N bits for every N-bit weight, 8 for every 8-bit weight, 32 for every parameter
            in floating point, and nothing else.
        expected_bytes: ``parts`` without ``padding``.
        parts: the bytes by what they are for.
        seconds: to make, write and read the bundle.
    """

    model: str
    parameters: int
    published: int
    bits: str
    fp32_bytes: int
    measured_bytes: int
    forecast_bytes: int
    ideal_bytes: int
    expected_bytes: int
    parts: StoredParts
    seconds: float

    @property
    def deviation(self) -> float:
        """Measured over expected bytes, less 1."""
        return self.measured_bytes / self.expected_bytes - 1


def size_row(entry: LiteratureModel, bits: BitSpec) -> SizeRow:
    """Write a bundle of the model at that width into a temporary folder and measure it."""
    started = time.perf_counter()
    model = entry.build()
    plan = plan_layers(model, architecture_of(entry.config), bits, RECIPE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder, random_bundle(entry, model, plan, bits))
        measured = (folder / WEIGHTS).stat().st_size
        read_bundle(folder)
    size = forecast_size(model, plan, STEPS)
    parts = stored_parts(model, plan, size.floating_bytes, size.header_bytes)
    expected = sum(asdict(parts).values()) - parts.padding
    return SizeRow(
        model=entry.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        published=entry.published,
        bits=str(bits),
        fp32_bytes=size.fp32_bytes,
        measured_bytes=measured,
        forecast_bytes=size.packed_bytes,
        ideal_bytes=parts.planes + parts.eight_bit + _bias_bytes(model, plan) + parts.floating,
        expected_bytes=expected,
        parts=parts,
        seconds=round(time.perf_counter() - started, 1),
    )


def random_bundle(
    entry: LiteratureModel, model: nn.Module, plan: LayerPlan, bits: BitSpec
) -> Bundle:
    """A bundle of random codes that keeps the format; ``model`` may lie on the meta device."""
    rng = np.random.default_rng(0)
    layers = {
        name: _random_layer(quantizable(model, name), choices, rng)
        for name, choices in plan.layers.items()
    }
    packed = tuple(f"{name}." for name in layers)
    return Bundle(
        path=Path(),
        model_config=dict(entry.config),
        scheduler_config=_SCHEDULER,
        quantization=QuantizationConfig(
            bits=str(bits),
            method=RECIPE.method,
            recipe=RECIPE.model_dump(mode="json"),
            source="random",
            full_precision_parameters=sum(p.numel() for p in model.parameters()),
            layers={name: LayerConfig.of(layer) for name, layer in layers.items()},
            eight_bit=dict(plan.eight_bit),
            kept=dict(plan.kept),
        ),
        layers=layers,
        parameters={
            key: np.zeros(tuple(value.shape), np.float32)
            for key, value in model.state_dict().items()
            if not key.startswith(packed)
        },
        timesteps=np.linspace(999, 0, STEPS).astype(np.int32),
        output_bias=np.zeros(STEPS, np.float32),
    )


def _random_layer(
    module: Quantizable, choices: LayerChoices, rng: np.random.Generator
) -> PackedLayer:
    conv, rows = geometry_of(module), module.weight.shape[0]
    columns = module.weight[0].numel()
    counts = np.full(rows, choices.bits.weight)
    if mixes_rows(module, choices):
        counts = by_salience(rng.random(rows), choices.bits.weight, max(_SHARE, 1 / rows))
    channels = input_channels(columns, conv)
    return PackedLayer(
        weight=pack(_random_matrix(counts, columns, rng)),
        bias=np.zeros(rows, np.float32),
        act_scale=np.ones(STEPS, np.float32),
        act_zero_point=np.zeros(STEPS, np.int32),
        act_bits=choices.bits.activation,
        input_factor=np.ones(channels, np.float32),
        input_shift=np.zeros(channels, np.int8),
        conv=conv,
    )


def _random_matrix(counts: np.ndarray, columns: int, rng: np.random.Generator) -> PlaneMatrix:
    """Random codes on a uniform grid, ``counts`` ``[O]`` planes in each row."""
    rows = len(counts)
    codes = np.frombuffer(rng.bytes(rows * columns), np.uint8).reshape(rows, columns)
    steps = np.zeros((rows, counts.max()), np.int8)
    for planes in np.unique(counts):
        grid = 2 ** np.arange(planes)
        # Eight planes of a symmetric grid end in 127: 128 is no int8.
        steps[counts == planes, :planes] = np.minimum(grid, LIMIT)
    return PlaneMatrix(
        offset=(-(steps.sum(axis=1, dtype=np.int64) // 2)).astype(np.int8),
        steps=steps,
        codes=codes & (2**counts - 1).astype(np.uint8)[:, None],
        plane_count=counts.astype(np.int64),
        scale=np.ones(rows, np.float32),
    )


def stored_parts(model: nn.Module, plan: LayerPlan, floating: int, header: int) -> StoredParts:
    """What a bundle of ``plan`` stores, counted layer by layer."""
    planes = eight_bit = rows_bytes = padding = 0
    tables = 8 * STEPS
    for name, choices in plan.layers.items():
        module, bits = quantizable(model, name), choices.bits.weight
        rows, columns = module.weight.shape[0], module.weight[0].numel()
        widest = bits + 1 if mixes_rows(module, choices) else bits
        bytes_of_bits = bits * rows * columns // 8
        if name in plan.eight_bit:
            eight_bit += bytes_of_bits
        else:
            planes += bytes_of_bits
        padding += 4 * bits * rows * words_per_row(columns) - bytes_of_bits
        # Scale, order and bias; an offset and the steps; how many rows have each plane.
        rows_bytes += rows * (4 + 4 + 4 + 1 + widest) + 4 * widest
        tables += 8 * STEPS
    return StoredParts(planes, eight_bit, rows_bytes, tables, floating, header, padding)


def _bias_bytes(model: nn.Module, plan: LayerPlan) -> int:
    """Biases that the full-precision layers have."""
    biases = (quantizable(model, name).bias for name in plan.layers)
    return 4 * sum(bias.numel() for bias in biases if bias is not None)


def markdown(rows: list[SizeRow], machine: dict[str, str]) -> str:
    """The table and what it means."""
    entries = {entry.name: entry for entry in MODELS}
    lines = [
        "# Bytes of the literature's denoisers",
        "",
        f"Command: `make size-table`; tables for {STEPS} sampler steps, plan of `{RECIPE.method}`.",
        machine_line(machine),
        "",
        "Bytes are those of `weights.safetensors`, packed, written and read back by the program's",
        "own code and removed again. Weights are random and the fit is left out: codes are drawn",
        "at random, with N-1, N and N+1 planes per row, N on average exactly, since bytes depend",
        "on plane counts alone. Where a fit mixes no rows, a layer is one byte per row smaller.",
        "",
        "| model | parameters (published) | bits | fp32 MB | bytes MB | of fp32 | ideal MB "
        "| over ideal | expected MB | deviation | forecast |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        "MB are 10^6 bytes. `ideal` is the information alone: N bits for each N-bit weight, 8 for",
        "each 8-bit weight, 32 for each bias and parameter in floating point; no scales or tables.",
        "`expected` is `N * N-bit weights / 8` plus what else is stored, counted from the format;",
        "the deviation is what that leaves out: bits that fill the last word of each row.",
        "`forecast` is what `mpq_export.forecast` says without weights.",
        "",
        "| model | bits | N-bit planes | 8-bit layers | per row | tables | floating point | header "
        "| padding |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.model} | {row.bits} | "
            + " | ".join(f"{value:,}" for value in asdict(row.parts).values())
            + " |"
            for row in rows
        ),
        "",
        "Where the diffusers model differs from the published one:",
        "",
        *(
            f"- {name}: {entries[name].remark}."
            for name in dict.fromkeys(row.model for row in rows)
            if name in entries and entries[name].remark
        ),
        "",
    ]
    return "\n".join(lines)


def _line(row: SizeRow) -> str:
    agrees = "equal" if row.forecast_bytes == row.measured_bytes else f"{row.forecast_bytes:,}"
    return (
        f"| {row.model} | {row.parameters / 1e6:.1f} M ({row.published} M) | {row.bits} "
        f"| {row.fp32_bytes / 1e6:.1f} | {row.measured_bytes / 1e6:.1f} "
        f"| {row.measured_bytes / row.fp32_bytes:.1%} | {row.ideal_bytes / 1e6:.1f} "
        f"| {row.measured_bytes / row.ideal_bytes - 1:+.1%} | {row.expected_bytes / 1e6:.1f} "
        f"| {row.deviation:+.2%} | {agrees} |"
    )


def report(
    entries: tuple[LiteratureModel, ...], out: Path, say: Callable[[str], None]
) -> list[SizeRow]:
    """Measure every model at every width; write ``size_table.md`` and ``size_table.json``."""
    rows = []
    for entry in entries:
        for bits in WIDTHS:
            row = size_row(entry, bits)
            rows.append(row)
            say(f"{row.model} {row.bits}: {row.measured_bytes:,} bytes, {row.seconds} s")
    machine = describe_machine()
    data: dict[str, Any] = {
        "machine": machine,
        "rows": [asdict(row) | {"deviation": row.deviation} for row in rows],
    }
    write_report(out, "size_table", data, markdown(rows, machine))
    return rows


def main(
    out: Annotated[Path, typer.Option(help="Folder of the table and the JSON.")] = Path(
        "docs/results"
    ),
) -> None:
    """Measure the literature's models; at most one bundle lies in memory and on disk at a time."""
    report(MODELS, out, print)


if __name__ == "__main__":
    typer.run(main)
