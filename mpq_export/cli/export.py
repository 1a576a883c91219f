"""``mpq-export``: from a checkpoint to a low-bit model."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BitsError, UserError
from ..lowering.names import ENGINE_TARGETS, Target
from ..precision import BitSpec
from ..training.launch import remark_on_processes
from ..training.limits import MAX_UPDATES
from . import console

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..checkpoints import Checkpoint
    from ..methods import Recipe

EPILOG = console.examples(
    "mpq-export --ckpt pipelines/digits/checkpoint --bits w3a4 --out out/digits-w3a4",
    "mpq-export --ckpt unet.safetensors --config config.json --scheduler scheduler/ --bits w4a8",
    "mpq-export --ckpt v1-5-pruned.ckpt --config v1-inference.yaml --scheduler scheduler/ "
    "--bits w4a8",
    "mpq-export --ckpt CompVis/stable-diffusion-v1-4 --bits w4a8",
    "mpq-export --ckpt unet/ --bits w3a4 --recipe recipe.yaml --dry-run",
    "mpq-export --ckpt out/digits-w3a4 --target onnx",
)


def export(
    ckpt: Annotated[
        str,
        typer.Option(
            help="Diffusers pipeline or model folder, hub id (owner/name, or owner/name@revision), "
            ".safetensors, .pt or .ckpt file, or an existing bundle."
        ),
    ],
    bits: Annotated[
        str | None, typer.Option(help="Weight and activation bits, for example w3a4.")
    ] = None,
    target: Annotated[
        Target,
        typer.Option(
            help="ort: packed nodes for ONNX Runtime; onnx: standard operators only; trt: packed "
            "nodes for our TensorRT plugin; trt-int8: for TensorRT without a plugin."
        ),
    ] = Target.ORT,
    method: Annotated[
        str | None,
        typer.Option(
            help="rtn, dmq, tfmq-dm, efficientdm, mpq-dm, mpq-dmv2 or mpq-combined; default "
            "mpq-dmv2."
        ),
    ] = None,
    train_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_UPDATES,
            help="Updates of training; default the recipe's, 0 leaves training out.",
        ),
    ] = None,
    inference_steps: Annotated[
        int | None,
        typer.Option(help="Sampler steps, each with its own activation table; default 20."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default out/CHECKPOINT-BITS.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=console.LARGEST_SEED, help="Seed of the calibration noise; default 0."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="For a single file: config.json of the model, or the original YAML of LDM or "
            "Stable Diffusion."
        ),
    ] = None,
    scheduler: Annotated[
        Path | None, typer.Option(help="scheduler_config.json, if none lies beside the model.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML with choices for the method and rules for single layers."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file, a prompt per line, to calibrate a pipeline that takes text; as many "
            "as half of the calibration images are used."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the training run that was stopped or killed."),
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="Lower to float16 activations between the nodes.")
    ] = False,
    plain_int8: Annotated[
        bool,
        typer.Option(
            "--plain-int8",
            help="With --target trt: the same integers as symmetric INT8 without a plugin, the "
            "same as --target trt-int8.",
        ),
    ] = False,
    no_engine: Annotated[
        bool,
        typer.Option("--no-engine", help="Leave building the engine to mpq-build."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan, bytes, time and memory; write nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Quantise a diffusion checkpoint to 2-8 bits and lower it to ONNX.

    The result is a bundle: a folder with packed weights, activation tables and the lowered model;
    of a whole pipeline the other components go along. Unless told otherwise the quantised model is
    trained to follow the full-precision one; no data is needed. Several processes share the work
    under accelerate launch or torchrun.
    """
    started = time.perf_counter()
    from ..bundle import read_bundle
    from ..checkpoints import is_bundle, load_checkpoint
    from ..export import export_bundle, export_checkpoint
    from ..export_request import ExportRequest
    from ..files import require_replaceable, text_lines
    from ..methods import chosen_recipe
    from ..pipeline_folder import files_to_copy

    if plain_int8:
        target = _without_plugin(target)
    if is_bundle(ckpt):
        choices = {
            "--bits": bits, "--method": method, "--inference-steps": inference_steps,
            "--seed": seed, "--config": config, "--scheduler": scheduler, "--recipe": recipe,
            "--prompts": prompts, "--dry-run": dry_run or None, "--train-steps": train_steps,
            "--resume": resume or None,
        }  # fmt: skip
        _refuse_for_bundles(ckpt, choices)
        with console.TaskProgress() as progress:
            opened = read_bundle(Path(ckpt))
            bundle = export_bundle(opened, (target,), out, progress, float16)
        _report(bundle, target, (), started, as_json, no_engine)
        return
    choice = chosen_recipe(method, recipe, bits, train_steps)
    num_steps = 20 if inference_steps is None else inference_steps
    folder = out or Path("out") / f"{_label(ckpt)}-{choice.bits}"
    if not dry_run:
        require_replaceable(folder)
    texts = None if prompts is None else text_lines(prompts)
    checkpoint = load_checkpoint(ckpt, config, scheduler)
    if dry_run:
        if checkpoint.pipeline is not None:
            files_to_copy(checkpoint.pipeline)
        _forecast(checkpoint, choice.bits, choice.recipe, num_steps, as_json)
        return
    request = ExportRequest(
        choice.bits,
        choice.recipe,
        (target,),
        num_steps,
        0 if seed is None else seed,
        folder,
        float16,
        texts,
        resume,
    )
    remark = remark_on_processes() if choice.recipe.training.updates else None
    if remark is not None:
        console.remark(remark)
    with console.TaskProgress() as progress:
        made = export_checkpoint(checkpoint, request, progress)
    if made is not None:  # the process that writes
        _report(made, target, checkpoint.notes, started, as_json, no_engine)


def _forecast(
    checkpoint: Checkpoint, bits: BitSpec, recipe: Recipe, num_steps: int, as_json: bool
) -> None:
    from ..architectures import architecture_of
    from ..forecast.export import forecast_export
    from ..forecast.text import forecast_text
    from ..methods.plan import plan_layers
    from ..trained_quantization import require_trainable

    require_trainable(checkpoint, recipe)
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(checkpoint.model, architecture, bits, recipe)
    forecast = forecast_export(
        checkpoint.model,
        checkpoint.model_config,
        checkpoint.scheduler_config,
        plan,
        recipe,
        num_steps,
    )
    if as_json:
        costs = {
            name: None if part is None else asdict(part)
            for name, part in (
                ("cost", forecast.cost),
                ("reconstruction", forecast.reconstruction),
                ("training", forecast.training),
            )
        }
        sizes = {"packed_bytes": forecast.size.packed_bytes, **asdict(forecast.size)}
        console.print_json({"notes": checkpoint.notes, **sizes, "kept": dict(plan.kept), **costs})
        return
    for line in [*forecast_text(forecast).splitlines(), *checkpoint.notes]:
        console.say(line)


def _without_plugin(target: Target) -> Target:
    if target not in ENGINE_TARGETS:
        raise UserError(
            "Plain INT8 is a form of the trt target", where="--plain-int8", fix="Add --target trt"
        )
    return Target.TRT_INT8


def _report(
    bundle: Bundle,
    target: Target,
    notes: tuple[str, ...],
    started: float,
    as_json: bool,
    no_engine: bool,
) -> None:
    from ..architectures import takes_text
    from ..evaluation.size import size_report

    size = size_report(bundle)
    engine, engine_words = None, ""
    if target in ENGINE_TARGETS:
        engine, engine_words = _engine(bundle.path, target, no_engine)
    report = {
        "bundle": str(bundle.path),
        "bits": bundle.quantization.bits,
        "method": bundle.quantization.method,
        "family": bundle.quantization.family,
        "takes_text": takes_text(bundle.model_config),
        "target": target.value,
        "notes": notes,
        **asdict(size),
        "onnx_bytes": size.lowered_bytes[target.value],
        "engine": engine,
        "seconds": round(time.perf_counter() - started, 2),
    }
    if as_json:
        console.print_json(report)
    else:
        _print(report)
        console.say_lines(engine_words)


def _engine(bundle: Path, target: Target, no_engine: bool) -> tuple[dict[str, Any] | None, str]:
    """The engine's report and words; a model that TensorRT refuses is a bundle all the same."""
    from .build import build_where_possible

    if no_engine:
        return None, f"Next: mpq-build {bundle}, on the machine that will run it"
    try:
        return build_where_possible(bundle, target)
    except UserError as error:
        return None, f"The bundle is written, but its engine is not. {error.paragraph()}"


def _print(report: dict[str, Any]) -> None:
    fp32, packed = report["fp32_bytes"], report["packed_bytes"]
    console.say(
        f"{report['bundle']}: {report['bits']} by {report['method']} in {report['seconds']} s. "
        f"{fp32 / 1e6:.2f} MB became {packed / 1e6:.2f} MB ({packed / fp32:.1%}); "
        f"the ONNX file for {report['target']} has {report['onnx_bytes'] / 1e6:.2f} MB."
    )
    console.say(
        f"{report['layers_quantized']} layers quantised, {report['layers_eight_bit']} of them kept "
        f"at 8 bits: {report['average_weight_bits']:.2f} bits per weight, "
        f"{report['average_weight_bits_all']:.2f} with those. "
        f"{report['layers_kept']} modules stay in floating point (config.json says why)."
    )
    if report["features_cached"]:
        console.say(
            f"{report['features_cached']} temporal features are a table of "
            f"{report['feature_bytes'] / 1e3:.1f} kB; {report['layers_removed']} layers are gone."
        )
    for note in report["notes"]:
        console.say(f"{note}.")
    if report["target"] not in ENGINE_TARGETS and report["family"] is not None:
        subject = ' --prompt "a red fox"' if report["takes_text"] else ""
        console.say(f"Next: mpq-sample {report['bundle']}{subject} --num-images 4 --out grid.png")


def _refuse_for_bundles(ckpt: str, choices: dict[str, Any]) -> None:
    given = [option for option, value in choices.items() if value is not None]
    if given:
        raise BitsError(
            "The bundle is already quantised",
            where=ckpt,
            why=f"{', '.join(given)} would change nothing",
            fix="Leave them out to lower it to another target, or give the checkpoint",
        )


def _label(ckpt: str) -> str:
    """A folder called 'checkpoint' or 'unet' is named by what it lies in; a hub id by its name."""
    path = Path(ckpt)
    if not path.exists():
        return Path(ckpt.partition("@")[0]).name
    path = path.resolve()
    if path.name in ("checkpoint", "unet", "transformer"):
        return path.parent.name
    return path.name if path.is_dir() else path.stem


def main() -> None:
    """Entry point."""
    console.run(export, EPILOG)


if __name__ == "__main__":
    main()
