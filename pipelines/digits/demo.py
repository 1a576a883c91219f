"""``make demo``: the digits model at three bit widths, one of them trained, side by side.

python -m mpq_export.pipelines.digits.demo --out out/demo
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from ...checkpoints import Checkpoint, load_checkpoint
from ...cli import console
from ...evaluation.machine import describe_machine
from ...evaluation.size import size_report
from ...export import export_checkpoint
from ...export_request import ExportRequest
from ...files import staged_file, write_json
from ...lowering.names import Target
from ...methods import DEFAULT_METHOD, recipe_of
from ...precision import BitSpec
from ...runtimes.names import Runtime
from ...sampling import draw_images
from ..images import grid
from ..judge import ImageQuality
from ..registry import DrawRequest
from .family import build_pipeline, draw
from .quality import DigitsJudge

CHECKPOINT = Path(__file__).parent / "checkpoint"
ROUNDED, TRAINED = ("w8a8", "w4a8", "w3a4"), "w3a4"
"""Bits that are shown as first quantised, and those that are shown trained."""
_SHOWN = 20
_HEADINGS = ("model", "average", "bytes", "of fp32", "accuracy", "FD data", "FD fp32", "PSNR")


def full_precision_images(
    checkpoint: Checkpoint,
    num_images: int,
    num_steps: int,
    seed: int,
    progress: console.TaskProgress,
) -> torch.Tensor:
    """What the original model draws from the same noise."""
    pipeline = build_pipeline(checkpoint.model, checkpoint.scheduler_config)
    progress.start("fp32", num_images)
    return draw(pipeline, DrawRequest(num_images, num_steps, seed), progress.advance)


def run_demo(
    out: Path, num_images: int, num_steps: int, method: str, train_steps: int | None, seed: int
) -> dict[str, Any]:
    """Export, draw and measure; writes ``demo.png`` and ``demo.json`` into ``out``."""
    started, judge, rows, shown = time.perf_counter(), DigitsJudge(), [], []
    recipe = recipe_of(method)
    updates = recipe.training.updates if train_steps is None else train_steps
    models = [(bits, bits, 0) for bits in ROUNDED] + [(f"{TRAINED} trained", TRAINED, updates)]
    with console.TaskProgress() as progress:
        checkpoint = load_checkpoint(CHECKPOINT)
        original = full_precision_images(checkpoint, num_images, num_steps, seed, progress)
        again = full_precision_images(checkpoint, num_images, num_steps, seed + 1, progress)
        rows.append(_full_precision_row(checkpoint, judge.measure(original, None)))
        shown.append(original[:_SHOWN])
        for name, bits, model_updates in models:
            request = ExportRequest(
                BitSpec.parse(bits),
                recipe.trained_for(model_updates),
                (Target.ORT,),
                num_steps,
                seed,
                out / name.replace(" ", "-"),
            )
            # An export consumes its checkpoint.
            bundle = export_checkpoint(load_checkpoint(CHECKPOINT), request, progress)
            assert bundle is not None, "one process alone is the one that writes"
            drawn = draw_images(
                bundle, Runtime.ORT, DrawRequest(num_images, num_steps, seed), progress
            )
            images = torch.from_numpy(drawn)
            size, quality = size_report(bundle), judge.measure(images, original)
            rows.append({"model": name, **asdict(size), **asdict(quality)})
            shown.append(images[:_SHOWN])
    report = {
        "command": "python -m mpq_export.pipelines.digits.demo "
        f"--method {method} --num-images {num_images} --steps {num_steps} "
        f"--train-steps {updates} --seed {seed}",
        "machine": describe_machine(),
        "method": method,
        "num_images": num_images,
        "num_steps": num_steps,
        "seed": seed,
        "frechet_unpaired_full_precision": judge.frechet(again, original),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }
    with staged_file(out / "demo.json") as stage:
        write_json(stage, report)
    with staged_file(out / "demo.png") as stage:
        grid(torch.cat(shown).numpy(), _SHOWN).save(stage)
    return report


def _full_precision_row(checkpoint: Checkpoint, quality: ImageQuality) -> dict[str, Any]:
    size = 4 * sum(p.numel() for p in checkpoint.model.parameters())
    whole = {"average_weight_bits_all": 32.0, "fp32_bytes": size, "packed_bytes": size}
    return {"model": "fp32", **whole, **asdict(quality)}


def table(report: dict[str, Any]) -> Table:
    """The report as a table."""
    title = f"{report['method']}, {report['num_images']} images, {report['num_steps']} steps"
    result = Table(title=title, caption="FD: Frechet distance over a digit classifier's features")
    for heading in _HEADINGS:
        result.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        result.add_row(row["model"], *_size_cells(row), *_quality_cells(row))
    return result


def _size_cells(row: dict[str, Any]) -> list[str]:
    average, share = row["average_weight_bits_all"], row["packed_bytes"] / row["fp32_bytes"]
    return [f"{average:.2f}", f"{row['packed_bytes']:,}", f"{share:.1%}"]


def _quality_cells(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['accuracy']:.1%}", f"{row['frechet_data']:.2f}"]
    if row["frechet_full_precision"] is None:
        return [*cells, "", ""]
    return [*cells, f"{row['frechet_full_precision']:.2f}", f"{row['psnr_full_precision']:.1f}"]


def main(
    out: Annotated[Path, typer.Option(help="Folder of bundles, picture and figures.")] = Path(
        "out/demo"
    ),
    num_images: Annotated[int, typer.Option(min=100, help="Images per row.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps.")] = 20,
    method: Annotated[str, typer.Option(help="Quantisation method.")] = DEFAULT_METHOD,
    train_steps: Annotated[
        int | None, typer.Option(min=1, help="Updates of training; default the method's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise, calibration and training.")] = 0,
) -> None:
    """Quantise the digits model four times and show what it costs."""
    report = run_demo(out, num_images, steps, method, train_steps, seed)
    console.out.print(table(report))
    console.say(
        "FD between two full-precision sets of different noise: "
        f"{report['frechet_unpaired_full_precision']:.2f}. Rounding alone shows at W3A4: specks, "
        "veils, some broken strokes. PSNR in dB, from the same noise."
    )
    rows = ", ".join(row["model"] for row in report["rows"])
    console.say(f"{out / 'demo.png'} shows, row by row: {rows}. {report['seconds']} s.")


if __name__ == "__main__":
    typer.run(main)
