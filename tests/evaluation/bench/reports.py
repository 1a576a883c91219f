"""A report that holds everything a page can show, without measuring anything."""

import numpy as np

from mpq_export.evaluation.bench.profile import LayerCost, OperatorCost, Profile, ProfiledCost
from mpq_export.evaluation.bench.report import (
    Report,
    RowReport,
    Setting,
    StepError,
    Times,
    comparisons,
    pareto_front,
    quality_axis,
)
from mpq_export.evaluation.estimates import Estimate

NAMES = ("fp32", "int8", "w4a8", "w3a4", "broken")


def close(value):
    return Estimate(value=value, low=0.97 * value, high=1.03 * value)


def profile(ms=1.0):
    layers = [
        LayerCost(
            layer=f"up_blocks.{k}.attentions.0.transformer_blocks.0.attn1.to_q",
            weight="linear 64x64", ms=ms / (k + 1), share=0.1, operators=["MPQLinear"],
            arithmetic="int8", weights="packed bit planes", macs=10**6, macs_per_ns=20.0,
            of_peak=0.2, copies=k,
        )
        for k in range(20)
    ]  # fmt: skip
    return Profile(
        run_ms=4 * ms,
        node_ms=3 * ms,
        peaks_macs_per_ns={"int8": 100.0, "float32": 25.0},
        kernels="ours, avx2",
        layers=layers,
        operators=[OperatorCost(operator="MPQLinear", nodes=20, ms=ms, share=0.25)],
        costs=[ProfiledCost(title="normalisations", ms=ms, share=0.25, remedy="Fuse <them>.")],
    )


def row(name, ms, frechet, kind="bundle", errors=0.0):
    rounds = [ms * (1 + 0.001 * k) for k in range(20)]
    quality = {"frechet_data": close(frechet), "accuracy": close(0.95)}
    if name != "fp32":
        quality |= {"frechet_full_precision": close(frechet / 2), "psnr": close(25.0)}
    return RowReport(
        name=name, title=f"model {name}", kind=kind, runtime=None, runs_as="kernels <x>",
        method="mpq-dmv2", weight_bits=3.1, activation_bits=4, file_bytes=10**6, load_seconds=0.3,
        peak_bytes=10**8, step=Times.of(rounds), image=Times.of([20 * t for t in rounds]),
        quality=quality, profile=profile(ms),
        errors=[StepError(timestep=900 - 100 * k, relative=errors * (k + 1)) for k in range(9)],
    )  # fmt: skip


def report():
    rows = [
        row("fp32", 8.0, 2.4, "fp32"),
        row("int8", 5.0, 3.9, "int8", 0.01),
        row("w4a8", 2.1, 2.5, errors=0.02),
        row("w3a4", 2.0, 4.4, errors=0.05),
    ]
    failed = RowReport(
        name="broken", title="model broken", kind="bundle", runtime="ort", runs_as="",
        method="rtn", weight_bits=2.0, activation_bits=4, file_bytes=5, failure="out of memory",
    )  # fmt: skip
    rows.append(failed)
    axis = quality_axis(rows)
    return Report(
        command="mpq-bench <bundle> --out out",
        notes=["The machine was busy."],
        environment={"processor": "P & Q", "cores": "2"},
        setting=Setting(
            num_images=40, steps=9, scheduler="DDIMScheduler", batch=1, rounds=20, warm_up_steps=3,
            threads=2, seed=0, model="UNet2DModel", checkpoint="ckpt",
        ),
        rows=rows,
        comparisons=comparisons(rows),
        not_measured={"LPIPS": "torchvision is not installed"},
        quality_axis=axis.value,
        pareto=pareto_front(rows, axis),
    )  # fmt: skip


def images():
    rng = np.random.default_rng(0)
    return {name: rng.random((20, 1, 16, 16), dtype=np.float32) for name in NAMES[:4]}


METHODS = ("rtn", "dmq", "tfmq-dm", "mpq-dm", "mpq-dmv2", "mpq-combined")
WIDTHS = {"w4a8": (2.3, 4.0), "w3a4": (2.0, 7.0), "w2a4": (1.9, 15.0)}
"""Milliseconds of a step, which methods hardly change, and a distance that they do."""


def grid_rows():
    """Six methods at three widths, and both baselines: 20 rows."""
    rows = [row("fp32", 8.0, 2.4, "fp32"), row("int8", 5.0, 6.0, "int8", 0.01)]
    for width, (ms, frechet) in WIDTHS.items():
        for number, method in enumerate(METHODS):
            made = row(
                f"{method}-{width}", ms * (1 + 0.01 * number), frechet * (1 - 0.1 * number),
                errors=0.05 / (2 + number),
            )  # fmt: skip
            bits = {"weight_bits": float(width[1]) + 0.1, "activation_bits": int(width[3])}
            rows.append(made.model_copy(update={"method": method, **bits}))
    return rows


def grid_report():
    """Of 20 rows."""
    rows = grid_rows()
    axis = quality_axis(rows)
    changes = {
        "rows": rows,
        "comparisons": comparisons(rows),
        "pareto": pareto_front(rows, axis),
        "quality_axis": axis.value,
    }
    return report().model_copy(update=changes)


def grid_images():
    """Of all its rows."""
    rng = np.random.default_rng(0)
    return {row.name: rng.random((20, 1, 16, 16), dtype=np.float32) for row in grid_rows()}
