"""``mpq-check``: is what runs what was quantised?"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RecipeError
from ..runtimes.names import ENGINE_RUNTIMES, Runtime
from . import console

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..evaluation.check import CheckReport
    from ..evaluation.gate import GateReport, Limits
    from ..evaluation.layer_blame import Blame
    from ..evaluation.whole_model import PredictionError
    from ..pipelines.registry import DrawRequest
    from ..runtimes.selection import Selection

_BLAMED = 5
"""Layers that are restored where a limit is broken and no number was given."""

EPILOG = console.examples(
    "mpq-check out/digits-w3a4",
    "mpq-check out/digits-w3a4 --ckpt pipelines/digits/checkpoint --worst 10",
    "mpq-check out/digits-w3a4 --runtime onnx --json",
    "mpq-check out/digits-w3a4 --ckpt pipelines/digits/checkpoint --gate-images 1000 "
    "--max-frechet-increase 15% --min-psnr 18 --blame 10",
    "mpq-check out/digits-w3a4 --reference full.safetensors --max-frechet-increase 15%",
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
            "per layer, and what images lose."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="What --save-reference left of full precision's images, in the place of --ckpt."
        ),
    ] = None,
    save_reference: Annotated[
        Path | None, typer.Option(help="With --ckpt: keep full precision's images so.")
    ] = None,
    max_frechet_increase: Annotated[
        str | None,
        typer.Option(
            help="Fail if the Frechet distance to data is larger than full precision's by more, "
            "such as 15%; needs --ckpt or --reference."
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(help="Fail below so many dB to full precision's images; needs the same."),
    ] = None,
    max_accuracy_drop: Annotated[
        str | None,
        typer.Option(help="Fail if fewer images show what was asked for by more, such as 2%."),
    ] = None,
    gate_images: Annotated[
        int | None,
        typer.Option(
            min=2, max=100_000, help="With --ckpt: images that the limits are of; default 200."
        ),
    ] = None,
    gate_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Their sampler steps; default: those of the bundle's tables."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file, a prompt per line, for text models' images.")
    ] = None,
    blame: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10_000,
            help="With --ckpt: restore so many layers one by one, to find what each costs; "
            "default: 5 where a limit is broken, else none.",
        ),
    ] = None,
    save_inputs: Annotated[
        Path | None, typer.Option(help="What the model is fed with, for polygraphy --load-inputs.")
    ] = None,
    save_outputs: Annotated[
        Path | None, typer.Option(help="What it predicts, for polygraphy --load-outputs.")
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

    Exit code 1 if a node differs, or if images are worse than a limit allows. Whole-model errors
    are shown beside it; they do not decide, since a quantised network turns a change of 1e-6 into
    percents.
    """
    from ..bundle import read_bundle
    from ..evaluation.check import CheckReport, blame_bundle, check_bundle
    from ..evaluation.gate import Limits, draw_reference, pass_through_gate, require_answerable
    from ..evaluation.reference import read_reference, write_reference
    from ..files import require_writable
    from ..runtimes.selection import select

    limits = Limits(
        _share("--max-frechet-increase", max_frechet_increase),
        _finite("--min-psnr", min_psnr),
        _share_of_all("--max-accuracy-drop", max_accuracy_drop),
    )
    drawing = {"--gate-images": gate_images, "--gate-steps": gate_steps, "--prompts": prompts}
    _require_full_precision(limits, ckpt, reference, save_reference, drawing)
    if (save_inputs is None) != (save_outputs is None):
        raise RecipeError("Give --save-inputs and --save-outputs together, or neither")
    if save_reference is not None:
        require_writable(save_reference)
    selection = select(runtime)
    opened, checkpoint = read_bundle(bundle), None
    full = None if reference is None else read_reference(reference)
    if limits:
        require_answerable(opened, full, limits)
    if ckpt is not None:
        from ..evaluation.original import load_original

        checkpoint = load_original(opened, ckpt)
    if save_inputs is not None and save_outputs is not None:
        from ..evaluation.check import noise_feeds
        from ..evaluation.polygraphy_files import save_run

        feeds = noise_feeds(opened, steps, images, seed)
        save_run(opened, runtime, feeds, save_inputs, save_outputs)
    gate = None
    with console.TaskProgress() as progress:
        if limits and not blame and runtime in ENGINE_RUNTIMES:
            report = CheckReport((), None, None)
        else:
            report = check_bundle(
                opened, runtime, checkpoint, steps, images, seed, progress, blame or 0
            )
        if reference is None and (limits or save_reference is not None):
            assert checkpoint is not None
            request = _request(opened, gate_images or 200, gate_steps, seed, prompts)
            full = draw_reference(opened, checkpoint, request, progress)
            if save_reference is not None:
                write_reference(save_reference, full)
        if limits:
            assert full is not None
            gate = pass_through_gate(opened, runtime, full, limits, progress)
            if not gate.passed and blame is None and checkpoint is not None and report.nodes:
                found = blame_bundle(
                    opened, checkpoint, report.nodes, _BLAMED, steps, images, seed, progress
                )
                report = replace(report, blame=found)
    if gate is not None and not gate.passed and report.blame is None and blame is None:
        console.remark(_how_to_blame(runtime))
    if as_json:
        console.print_json(_summary(bundle, selection, report, worst, gate))
    else:
        _print(selection, report, worst, gate)
    if not report.passed or (gate is not None and not gate.passed):
        raise typer.Exit(console.CHECK_FAILED)


def _share(option: str, text: str | None) -> float | None:
    """``15%`` or ``0.15`` as 0.15."""
    if text is None:
        return None
    try:
        percent = text.strip().endswith("%")
        value = float(text.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecipeError(f"'{text}' is no share", where=option, fix="Try 15% or 0.15")
    if value >= 1 and not percent:
        raise RecipeError(
            f"'{text}' may mean percents or a multiple",
            where=option,
            why=f"As a share it is {value:.0%}",
            fix=f"Write {value:g}%, or a fraction such as 0.15",
        )
    return value


def _share_of_all(option: str, text: str | None) -> float | None:
    """As :func:`_share`, of something that cannot fall by more than the whole."""
    value = _share(option, text)
    if value is not None and value >= 1:
        raise RecipeError(
            f"A limit of '{text}' is never broken",
            where=option,
            why="No more than all can be lost",
            fix="Try 2%",
        )
    return value


def _finite(option: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise RecipeError(f"{value} dB is no limit", where=option, fix="Try 18")
    return value


def _require_full_precision(
    limits: Limits,
    ckpt: str | None,
    reference: Path | None,
    save_reference: Path | None,
    drawing: dict[str, Any],
) -> None:
    """What images are compared with comes from the checkpoint, or from a file; from one of them."""
    if limits and ckpt is None and reference is None:
        raise RecipeError(
            "Limits need full precision to compare with",
            where="--max-frechet-increase, --min-psnr, --max-accuracy-drop",
            fix="Give the checkpoint with --ckpt, or what --save-reference left of it with "
            "--reference",
        )
    if save_reference is not None and (ckpt is None or reference is not None):
        raise RecipeError(
            "A reference is drawn by the checkpoint",
            where="--save-reference",
            fix="Give it with --ckpt, without --reference",
        )
    given = [name for name, value in drawing.items() if value is not None]
    if given and (reference is not None or not (limits or save_reference is not None)):
        raise RecipeError(
            f"{given[0]} is of images that the checkpoint draws",
            where=given[0],
            why="A reference has its own" if reference is not None else "No limit asks for any",
            fix="Leave it out",
        )


def _request(
    bundle: Bundle, num_images: int, steps: int | None, seed: int, prompts: Path | None
) -> DrawRequest:
    from ..files import text_lines
    from ..pipelines.registry import DrawRequest

    texts = () if prompts is None else text_lines(prompts)
    num_steps = len(bundle.timesteps) if steps is None else steps
    return DrawRequest(num_images, num_steps, seed, tuple(texts))


def _summary(
    bundle: Path, selection: Selection, report: CheckReport, worst: int, gate: GateReport | None
) -> dict[str, Any]:
    whole = {
        "against_torch": report.against_torch,
        "against_full_precision": report.against_original,
    }
    return {
        "bundle": str(bundle),
        "runtime": selection.asked.value,
        "runs": selection.runs.value,
        "runs_note": selection.note,
        "passed": report.passed and (gate is None or gate.passed),
        "nodes": len(report.nodes),
        "nodes_exact": report.exact,
        "nodes_overflowed": report.overflowed,
        **{name: asdict(error) if error else None for name, error in whole.items()},
        "worst_layers": [asdict(node) for node in report.worst(worst)],
        "gate": asdict(gate) if gate is not None else None,
        "blame": asdict(report.blame) if report.blame is not None else None,
    }


def _print(
    selection: Selection, report: CheckReport, worst: int, gate: GateReport | None = None
) -> None:
    if not report.nodes:
        console.say(f"Nodes are not compared: an engine shows none ({selection}).")
    else:
        _print_nodes(selection, report, worst)
    if report.blame is not None:
        _print_blame(report.blame)
    if gate is not None:
        _print_gate(gate)


def _print_nodes(selection: Selection, report: CheckReport, worst: int) -> None:
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


def _print_blame(blame: Blame) -> None:
    console.say(
        f"Restoring {len(blame.costs)} of {blame.layers} layers one by one, those with the lowest "
        f"signal to noise of their own; the prediction's error is {blame.error:.2%}:"
    )
    for cost in blame.costs:
        console.say(
            f"  restored: {cost.name}: error {cost.error:.2%}, {cost.gain:.1%} of its square gone"
        )


def _how_to_blame(runtime: Runtime) -> str:
    """Said where a limit is broken and nothing is known of layers."""
    how = "--ckpt CHECKPOINT --blame 5"
    if runtime in ENGINE_RUNTIMES:
        how = f"--runtime {Runtime.ORT.value} {how}"
    return f"To find the layer that is to blame, run this again with {how}."


def _print_gate(gate: GateReport) -> None:
    drawn = gate.drawn
    console.say(
        f"Drawn as the reference was: {drawn.images} images in {drawn.steps} steps of "
        f"{drawn.scheduler}, seed {drawn.seed}."
    )
    for verdict in gate.verdicts:
        said = "within the limit" if verdict.passed else "FAILED"
        console.say(f"{said}: {verdict.detail} ({verdict.images} images).")
    if gate.note:
        console.say(f"note: {gate.note}.")


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
