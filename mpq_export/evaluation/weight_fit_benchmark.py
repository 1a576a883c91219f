"""How well and how fast weight rows are fitted, on synthetic rows of known shape.

    python -m mpq_export.evaluation.weight_fit_benchmark --out docs/results

Error is squared error over energy, averaged over rows and seeds, times 1000 (0.26 % of the energy
lost reads 2.6). ``study`` is the joint additive codebook of the study that the quantiser was
designed from (one seed of the same distributions, before snapping to int8).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ..core.bit_allocation import Allocation, by_error_gain, by_kurtosis, total_error
from ..core.plane_fit import SortedRows
from ..core.weight_form import WeightForm
from ..core.weight_quantizer import fit_rows, quantize_weight
from .machine import describe_machine
from .report_files import machine_line, write_report

ROWS, COLUMNS, SEEDS = 256, 1152, 5
STUDY = {
    ("gaussian", 2): 116.6, ("gaussian", 3): 38.2, ("gaussian", 4): 11.7,
    ("laplace", 2): 174.7, ("laplace", 3): 71.1, ("laplace", 4): 24.4,
    ("student-t(3)", 2): 268.3, ("student-t(3)", 3): 159.4, ("student-t(3)", 4): 70.9,
    ("mixed", 2): 169.6, ("mixed", 3): 75.4, ("mixed", 4): 28.3,
}  # fmt: skip
STUDY_ERROR_GAIN = {
    ("student-t(3)", 2): 264.0, ("student-t(3)", 3): 143.4, ("student-t(3)", 4): 59.1,
    ("mixed", 2): 131.9, ("mixed", 3): 54.1, ("mixed", 4): 18.4,
}  # fmt: skip
TIMED_LAYERS = (
    (1280, 11520, 2), (640, 5760, 2), (320, 2880, 4), (1280, 1280, 2), (5120, 1280, 1),
    (320, 320, 2),
)  # fmt: skip
"""Rows, columns and number of layers: shapes of a Stable Diffusion UNet, about 50 M weights."""


def _mixed(rng: np.random.Generator) -> np.ndarray:
    """60 % near-Gaussian, 30 % t(4), 10 % t(2.5) rows, log-normal scales."""
    near, medium = round(0.6 * ROWS), round(0.3 * ROWS)
    rows = np.concatenate(
        [
            rng.standard_normal((near, COLUMNS)),
            rng.standard_t(4, (medium, COLUMNS)) / np.sqrt(2),
            rng.standard_t(2.5, (ROWS - near - medium, COLUMNS)) / np.sqrt(5),
        ]
    )
    return rows * np.exp(0.5 * rng.standard_normal((ROWS, 1)))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "gaussian": lambda rng: rng.standard_normal((ROWS, COLUMNS)),
    "laplace": lambda rng: rng.laplace(size=(ROWS, COLUMNS)),
    "student-t(3)": lambda rng: rng.standard_t(3, (ROWS, COLUMNS)),
    "mixed": _mixed,
}


def fit_errors(name: str, bits: int, seed: int) -> dict[str, float]:
    """Errors of one draw: every form at equal bits, and the residual form with mixed rows."""
    weights = DISTRIBUTIONS[name](np.random.default_rng(seed))
    rows = SortedRows.of(torch.from_numpy(weights))
    energy = rows.squares.numpy()
    errors: dict[str, float] = {}
    for form in WeightForm:
        errors[form.value] = 1e3 * float((fit_rows(rows, bits, bits, form).error / energy).mean())
    by_planes = np.stack(
        [fit_rows(rows, p, bits, WeightForm.RESIDUAL).error for p in range(bits - 1, bits + 2)]
    )
    for rule, counts in (
        ("kurtosis", by_kurtosis(weights, by_planes, bits)),
        ("error gain", by_error_gain(by_planes, bits)),
    ):
        errors[f"residual, {rule}"] = 1e3 * total_error(by_planes, counts, bits) / energy.sum()
    return errors


def error_table() -> list[dict[str, Any]]:
    """One row per distribution and bits: means over seeds, and the spread of the residual form."""
    table = []
    for name in DISTRIBUTIONS:
        for bits in (2, 3, 4):
            draws = [fit_errors(name, bits, seed) for seed in range(SEEDS)]
            means = {key: round(float(np.mean([d[key] for d in draws])), 1) for key in draws[0]}
            spread = float(np.std([d["residual"] for d in draws]))
            table.append(
                {
                    "distribution": name,
                    "bits": bits,
                    **means,
                    "residual spread": round(spread, 1),
                    "study": STUDY[name, bits],
                    "study, error gain": STUDY_ERROR_GAIN.get((name, bits)),
                }
            )
    return table


def time_fit(bits: int) -> list[dict[str, Any]]:
    """Seconds per kind of layer: residual form, error gain on 256 input rows."""
    table = []
    for rows, columns, count in TIMED_LAYERS:
        seconds = 0.0
        for _ in range(count):
            weights, inputs = torch.randn(rows, columns), torch.randn(256, columns)
            start = time.perf_counter()
            quantize_weight(weights, bits, WeightForm.RESIDUAL, Allocation.ERROR_GAIN, inputs)
            seconds += time.perf_counter() - start
        table.append({"rows": rows, "columns": columns, "layers": count, "seconds": seconds})
    return table


def extrapolate(timed: list[dict[str, Any]], weights: float) -> float:
    """Seconds for that many weights in the same proportions."""
    measured = sum(row["rows"] * row["columns"] * row["layers"] for row in timed)
    return weights / measured * sum(row["seconds"] for row in timed)


def _markdown(
    errors: list[dict[str, Any]], seconds: dict[str, float], machine: dict[str, str]
) -> str:
    columns = list(errors[0])
    lines = [
        "# Weight fitting: error and time",
        "",
        "Command: `make bench-fit`; seeds 0-4; 256 rows of 1152; squared error over energy x 1000.",
        machine_line(machine),
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *(
            "| " + " | ".join("" if v is None else str(v) for v in row.values()) + " |"
            for row in errors
        ),
        "",
        "`study`: the joint additive codebook of the design study, one seed, before int8 snapping.",
        "",
        "| bits | 50 M weights | 860 M weights |",
        "|---|---|---|",
        *(
            f"| {bits} | {s:.0f} s | {s / 50e6 * 860e6 / 60:.1f} min |"
            for bits, s in seconds.items()
        ),
        "",
    ]
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the table and the JSON.")] = Path(
        "docs/results"
    ),
) -> None:
    """Measure errors and time; write ``weight_fit.md`` and ``weight_fit.json``."""
    errors = error_table()
    timed = {f"w{bits}": time_fit(bits) for bits in (2, 3, 4, 7)}
    seconds = {bits: extrapolate(rows, 50e6) for bits, rows in timed.items()}
    machine = describe_machine()
    report = {"machine": machine, "errors": errors, "timed": timed, "seconds_per_50M": seconds}
    text = _markdown(errors, seconds, machine)
    write_report(out, "weight_fit", report, text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
