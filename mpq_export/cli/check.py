"""``mpq-check``: is what runs what was quantised?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RecipeError
from ..runtimes.names import Runtime
from . import console

EPILOG = console.examples(
    "mpq-check out/digits-w3a4",
    "mpq-check out/digits-w3a4 --ckpt pipelines/digits/checkpoint --worst 10",
    "mpq-check out/digits-w3a4 --runtime onnx --json",
)


def check(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    runtime: Annotated[Runtime, typer.Option(help="Which way of running it is checked.")] = Runtime.ORT,
    ckpt: Annotated[
        Path | None,
        typer.Option(help="The original checkpoint, to measure what quantisation costs per layer."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps to try.")] = 3,
    images: Annotated[int, typer.Option(min=1, help="Images per step.")] = 2,
    worst: Annotated[int, typer.Option(min=1, help="How many worst layers to name.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare every node of the running model with the integer reference, bit for bit.

    Exit code 1 if a node differs. Whole-model errors are shown beside it; they do not decide, since
    a quantised network turns a change of 1e-6 into percents.
    """
    if runtime is Runtime.TORCH:
        raise RecipeError(
            "The torch runtime has no graph to check", where="--runtime",
            why="It is the reference of the whole-model comparison itself",
            fix="Choose ort, ort-functions or onnx",
        )  # fmt: skip
    from ..bundle import read_bundle
    from ..evaluation.check import check_bundle

    opened, checkpoint = read_bundle(bundle), None
    if ckpt is not None:
        from ..checkpoints import load_checkpoint

        checkpoint = load_checkpoint(ckpt)
    with console.TaskProgress() as progress:
        report = check_bundle(opened, runtime, checkpoint, steps, images, seed, progress)
    exact = sum(node.equal for node in report.nodes)
    summary = {
        "bundle": str(bundle), "runtime": runtime.value, "passed": report.passed,
        "nodes": len(report.nodes), "nodes_exact": exact,
        "against_torch": asdict(report.against_torch) if report.against_torch else None,
        "against_full_precision": asdict(report.against_full_precision) if report.against_full_precision else None,
        "worst_layers": [asdict(node) for node in report.worst(worst)],
    }  # fmt: skip
    if as_json:
        console.print_json(summary)
    else:
        _print(summary)
    if not report.passed:
        sys.exit(console.CHECK_FAILED)


def _print(summary: dict) -> None:
    say = console.out.print
    verdict = "passed" if summary["passed"] else "FAILED"
    say(f"{verdict}: {summary['nodes_exact']} of {summary['nodes']} nodes equal the reference exactly ({summary['runtime']}).")
    for key, name in (("against_torch", "the torch reference"), ("against_full_precision", "full precision")):
        error = summary[key]
        if error is None:
            why = "give --ckpt" if key == "against_full_precision" else "torch is not installed"
            say(f"Whole model against {name}: not measured ({why}).")
        else:
            say(f"Whole model against {name}: relative error {error['relative']:.2%} (worst step {error['worst_step_relative']:.2%}).")
    shown = [layer for layer in summary["worst_layers"] if not layer["equal"] or layer["output_snr_db"] is not None]
    if shown:
        say("Worst layers:")
    for layer in shown:
        snr = "" if layer["output_snr_db"] is None else f"signal to quantisation noise {layer['output_snr_db']:.1f} dB"
        fault = "" if layer["equal"] else f"{layer['differing']:.2%} of outputs differ, by up to {layer['largest_difference']:.3g} "
        say(f"  {layer['name']}: {fault}{snr}", markup=False)


def main() -> None:
    """Entry point."""
    console.run(check, EPILOG)
