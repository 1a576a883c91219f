"""``mpq-check``: is what runs what was quantised?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtimes.names import Runtime
from . import console

if TYPE_CHECKING:
    from ..evaluation.check import CheckReport
    from ..evaluation.whole_model import PredictionError
    from ..runtimes.selection import Selection

EPILOG = console.examples(
    "mpq-check out/digits-w3a4",
    "mpq-check out/digits-w3a4 --ckpt pipelines/digits/checkpoint --worst 10",
    "mpq-check out/digits-w3a4 --runtime onnx --json",
)


def check(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    runtime: Annotated[
        Runtime, typer.Option(help="Which way of running it is checked.")
    ] = Runtime.ORT,
    ckpt: Annotated[
        str | None,
        typer.Option(
            help="The original checkpoint (folder or hub id), to measure what quantisation costs "
            "per layer."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps to try.")] = 3,
    images: Annotated[int, typer.Option(min=1, max=1024, help="Images per step.")] = 2,
    worst: Annotated[int, typer.Option(min=1, help="How many worst layers to name.")] = 5,
    seed: Annotated[
        int, typer.Option(min=0, max=console.LARGEST_SEED, help="Seed of the inputs.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare every packed layer of the running model with the integer reference, bit for bit.

    Exit code 1 if a node differs. Whole-model errors are shown beside it; they do not decide, since
    a quantised network turns a change of 1e-6 into percents.
    """
    from ..bundle import read_bundle
    from ..evaluation.check import check_bundle
    from ..runtimes.selection import select

    selection = select(runtime)
    opened, checkpoint = read_bundle(bundle), None
    if ckpt is not None:
        from ..checkpoints import load_checkpoint

        checkpoint = load_checkpoint(ckpt)
    with console.TaskProgress() as progress:
        report = check_bundle(opened, runtime, checkpoint, steps, images, seed, progress)
    if as_json:
        console.print_json(_summary(bundle, selection, report, worst))
    else:
        _print(selection, report, worst)
    if not report.passed:
        raise typer.Exit(console.CHECK_FAILED)


def _summary(bundle: Path, selection: Selection, report: CheckReport, worst: int) -> dict[str, Any]:
    whole = {
        "against_torch": report.against_torch,
        "against_full_precision": report.against_original,
    }
    return {
        "bundle": str(bundle),
        "runtime": selection.asked.value,
        "runs": selection.runs.value,
        "runs_note": selection.note,
        "passed": report.passed,
        "nodes": len(report.nodes),
        "nodes_exact": report.exact,
        "nodes_overflowed": report.overflowed,
        **{name: asdict(error) if error else None for name, error in whole.items()},
        "worst_layers": [asdict(node) for node in report.worst(worst)],
    }


def _print(selection: Selection, report: CheckReport, worst: int) -> None:
    verdict = "passed" if report.passed else "FAILED"
    counts = f"{report.exact} of {len(report.nodes)} nodes equal the reference exactly"
    console.say(f"{verdict}: {counts} ({selection}).")
    if report.overflowed:
        console.say(f"{report.overflowed} nodes gave infinity or NaN. {_advice(selection)}")
    _print_error("the torch reference", report.against_torch, "torch is not installed")
    _print_error("full precision", report.against_original, "give --ckpt")
    for node in report.worst(worst):
        notes = []
        if not node.equal:
            notes.append(
                f"{node.differing:.2%} of outputs differ, by up to {node.largest_difference:.3g}"
            )
        if node.not_finite:
            notes.append(f"{node.not_finite:.2%} of outputs are not finite")
        if node.output_snr_db is not None:
            notes.append(f"signal to quantisation noise {node.output_snr_db:.1f} dB")
        if notes:
            console.say(f"  worst: {node.name}: {'; '.join(notes)}")


def _advice(selection: Selection) -> str:
    if selection.asked is Runtime.TORCH:
        return "The GPU runs float16, and that is overflow beyond 65504: use --runtime ort."
    return "In a float16 graph that is overflow beyond 65504: lower the bundle without --float16."


def _print_error(reference: str, error: PredictionError | None, why_not: str) -> None:
    if error is None:
        console.say(f"Whole model against {reference}: not measured ({why_not}).")
        return
    console.say(
        f"Whole model against {reference}: relative error {error.relative:.2%}, "
        f"worst step {error.worst_step_relative:.2%}."
    )


def main() -> None:
    """Entry point."""
    console.run(check, EPILOG)


if __name__ == "__main__":
    main()
